"""What answers a micro-batch: an encoder and a ranker, joined."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.encoders.encoder import Tower
from engine.query import Prompt, Query, Ranking, Search
from engine.sizes import Size


class Ranked(NamedTuple):
    """A micro-batch whose users were encoded, and the catalogue ranked for each of them."""

    user_vectors: NDArray[np.float32]  # [B, D]
    rankings: Sequence[Ranking]
    encode_ms: float
    retrieve_ms: float


class Pipeline(Protocol):
    """Encodes and ranks, in one call or in two."""

    sizes: Sequence[Size]
    """The sizes that it is made ready for; one without any takes every size."""
    max_batches_in_flight: int
    """How many calls may be under way at once, each in a thread of its own."""

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        """Encode one micro-batch and rank the catalogue for each of its users; blocks."""

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        """Do what `Encoder.encode` does."""

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        """Do what `Ranker.rank` does, without any encoding."""

    def warm_up(self) -> Mapping[Size, float]:
        """Make all that serves ready, and give the milliseconds of a forward of each size."""

    def close(self) -> None: ...
