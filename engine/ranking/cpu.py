"""Exact top-k on the CPU."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.native._native import masked_topk
from engine.query import Ranking, Search
from engine.ranking.ranker import cut, pack


class CpuRanker:
    """Holds the item vectors `[N, D]` float32; `num_threads` 0 takes all cores."""

    def __init__(self, item_vectors: NDArray[np.float32], num_threads: int = 0) -> None:
        self._item_vectors = item_vectors
        self._num_threads = num_threads or os.cpu_count() or 1

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        packed = pack(searches, len(self._item_vectors))
        return cut(
            *masked_topk(
                user_vectors,
                self._item_vectors,
                packed.excluded_rows,
                packed.excluded_offsets,
                packed.k,
                self._num_threads,
            )
        )
