"""Ranks on the GPU for user vectors that lie on the host."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.config import ItemPrecision
from engine.gpu import Gpu
from engine.query import Ranking, Search
from engine.ranking.cpu import CpuRanker
from engine.ranking.cuda_topk import CudaTopK
from engine.ranking.ranker import cut
from engine.ranking.stored_items import store


class CudaRanker:
    """Ranks one call after another; the CPU ranks what the GPU's memory has no room for.

    Both read the item vectors `[N, D]` in the same precision, so that their answers are equal. The
    memory on the GPU is the `gpu`'s, who gives it back when it is closed.
    """

    def __init__(
        self,
        gpu: Gpu,
        item_vectors: NDArray[np.float32],
        precision: ItemPrecision,
        max_queries: int,
        num_cpu_threads: int,
    ) -> None:
        items = store(item_vectors, precision)
        self._gpu = gpu
        self._on_cpu = CpuRanker(items.widened, num_cpu_threads)
        self.topk = CudaTopK(gpu, items.stored, max_queries, items.dtype)
        self._buffers = self.topk.make_buffers()
        shape = max_queries, self.topk.dim
        self._vectors: NDArray[np.float32] = gpu.allocate_pinned(shape, np.float32)
        self._address = gpu.allocate(self._vectors.nbytes)
        self._ranking = threading.Lock()

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        if not self.topk.fits(searches):
            return self._on_cpu.rank(user_vectors, searches)
        with self._ranking:
            staged = self._vectors[: len(user_vectors)]
            staged[:] = user_vectors
            with self._gpu.settled():
                self._gpu.upload(self._address, staged)
                rows, scores = self.topk.queue(self._buffers, self._address, searches)
            return cut(rows.copy(), scores.copy())
