"""What ranks the catalogue for user vectors that one already has: what all rankers do."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.query import Ranking, Search


class Ranker(Protocol):
    """Exact top-k over item vectors that it holds."""

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        """Rank the catalogue for each of `user_vectors [B, D]`; blocks.

        A ranking is shorter than its search's k where fewer items remain.
        """


class PackedSearches(NamedTuple):
    """Searches side by side in the arrays that the kernels read."""

    excluded_rows: NDArray[np.int32]  # [E]
    excluded_offsets: NDArray[np.int64]  # [B + 1]
    k: NDArray[np.int32]  # [B], at most N


def pack(searches: Sequence[Search], num_items: int) -> PackedSearches:
    num_excluded = sum(len(search.excluded_rows) for search in searches)
    arrays = PackedSearches(
        excluded_rows=np.empty(num_excluded, np.int32),
        excluded_offsets=np.empty(len(searches) + 1, np.int64),
        k=np.empty(len(searches), np.int32),
    )
    return pack_into(arrays, searches, num_items)


def pack_into(arrays: PackedSearches, searches: Sequence[Search], num_items: int) -> PackedSearches:
    """Overwrite the beginnings of arrays that are as large or larger, and give those."""
    lengths = [len(search.excluded_rows) for search in searches]
    packed = PackedSearches(
        excluded_rows=arrays.excluded_rows[: sum(lengths)],
        excluded_offsets=arrays.excluded_offsets[: len(searches) + 1],
        k=arrays.k[: len(searches)],
    )
    excluded_rows = [search.excluded_rows for search in searches]
    np.concatenate([np.empty(0, np.int32), *excluded_rows], out=packed.excluded_rows)
    packed.excluded_offsets[0] = 0
    np.cumsum(lengths, out=packed.excluded_offsets[1:])
    packed.k[:] = [min(search.k, num_items) for search in searches]
    return packed


def cut(rows: NDArray[np.int32], scores: NDArray[np.float32]) -> list[Ranking]:
    """Cut the places without an item off `rows [B, k]`, where fewer than k were left."""
    num_found = np.count_nonzero(rows >= 0, axis=1)  # [B]
    return [(rows[query, :count], scores[query, :count]) for query, count in enumerate(num_found)]
