"""What answers a micro-batch: an encoder and a ranker, joined."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.encoders.encoder import Encoder
from engine.ranking.cpu import Ranking
from engine.request import Query


class Ranked(NamedTuple):
    """A micro-batch whose users were encoded, and the catalogue ranked for each of them."""

    user_vectors: NDArray[np.float32]  # [B, D]
    rankings: Sequence[Ranking]
    encode_ms: float
    retrieve_ms: float


class Ranker(Encoder, Protocol):
    """An encoder that knows the item vectors."""

    max_batches_in_flight: int
    """How many calls may be under way at once, each in a thread of its own."""

    def rank(self, queries: Sequence[Query]) -> Ranked:
        """Encode one micro-batch and rank the catalogue for each of its users; blocks."""
