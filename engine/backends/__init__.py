"""The one interface between the engine and whatever runs the encoder graph."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.request import Prompt, Query
from engine.retrieval import Ranking

Tower = Literal["user_vector", "item_vector"]
Untyped = Any
"""An object of a library that has no types."""


class Ranked(NamedTuple):
    """A micro-batch whose users were encoded, and the catalogue ranked for each of them."""

    user_vectors: NDArray[np.float32]  # [B, D]
    rankings: Sequence[Ranking]
    encode_ms: float
    retrieve_ms: float


class Encoder(Protocol):
    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        """Encode one micro-batch into `[B, D]` float32; blocks."""

    def warm_up(self) -> None:
        """Run once at every size that is to be fast from the first request on."""

    def close(self) -> None: ...


class Ranker(Encoder, Protocol):
    """An encoder that knows the item vectors."""

    max_batches_in_flight: int
    """How many calls may be under way at once, each in a thread of its own."""

    def rank(self, queries: Sequence[Query]) -> Ranked:
        """Encode one micro-batch and rank the catalogue for each of its users; blocks."""
