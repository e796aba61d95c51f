"""Exact top-k: the last stage before an answer is assembled."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.native._native import masked_topk

Ranking = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Item rows and their scores, best first."""


class Retrieve(Protocol):
    """Ranks a catalogue that it knows."""

    def __call__(
        self,
        user_vectors: NDArray[np.float32],
        *,
        excluded_rows: Sequence[NDArray[np.int32]],
        k: Sequence[int],
    ) -> list[Ranking]: ...


def retrieve(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    excluded_rows: Sequence[NDArray[np.int32]],
    k: Sequence[int],
    num_threads: int,
) -> list[Ranking]:
    """Rank, on the CPU, the items of `item_vectors [N, D]` for each of `user_vectors [B, D]`.

    Rankings are shorter than k where fewer items remain. `excluded_rows` are sorted and unique.
    """
    num_items = len(item_vectors)
    offsets = np.zeros(len(excluded_rows) + 1, np.int64)
    np.cumsum([len(rows) for rows in excluded_rows], out=offsets[1:])
    rows, scores = masked_topk(
        user_vectors,
        item_vectors,
        np.concatenate([np.empty(0, np.int32), *excluded_rows]),
        offsets,
        np.array([min(count, num_items) for count in k], np.int32),
        num_threads,
    )
    return cut(rows, scores)


def cut(rows: NDArray[np.int32], scores: NDArray[np.float32]) -> list[Ranking]:
    """Cut the places without an item off `rows [B, k]`, where fewer than k were left."""
    num_found = np.count_nonzero(rows >= 0, axis=1)  # [B]
    return [(rows[query, :count], scores[query, :count]) for query, count in enumerate(num_found)]
