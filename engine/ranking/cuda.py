"""Ranks on the GPU for user vectors that lie on the host."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.gpu import Gpu
from engine.ranking.cpu import Ranking, Retrieve, cut
from engine.ranking.cuda_topk import GpuTopK


class GpuRetriever:
    """Searches one after another; `on_cpu` ranks what the GPU's memory has no room for."""

    def __init__(self, gpu: Gpu, topk: GpuTopK, on_cpu: Retrieve) -> None:
        self._gpu = gpu
        self._topk = topk
        self._on_cpu = on_cpu
        self._search = topk.make_search()
        shape = topk.max_queries, topk.dim
        self._vectors: NDArray[np.float32] = gpu.allocate_pinned(shape, np.float32)
        self._address = gpu.allocate(self._vectors.nbytes)
        self._searching = threading.Lock()

    def __call__(
        self,
        user_vectors: NDArray[np.float32],
        *,
        excluded_rows: Sequence[NDArray[np.int32]],
        k: Sequence[int],
    ) -> list[Ranking]:
        """Rank for `[B, D]`; blocks."""
        if not self._topk.fits(excluded_rows, k):
            return self._on_cpu(user_vectors, excluded_rows=excluded_rows, k=k)
        with self._searching:
            staged = self._vectors[: len(user_vectors)]
            staged[:] = user_vectors
            with self._gpu.settled():
                self._gpu.upload(self._address, staged)
                rows, scores = self._topk.queue(self._search, self._address, excluded_rows, k)
            return cut(rows.copy(), scores.copy())
