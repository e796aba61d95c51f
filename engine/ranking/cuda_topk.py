"""Exact top-k on the GPU: the item vectors lie there, and only rows and scores come back."""

import importlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.encoders.encoder import Untyped
from engine.errors import PlanError
from engine.gpu import Gpu

MAX_K = 1000
"""Memory for candidates grows with it; a request may ask for more, and the CPU answers it."""
MAX_EXCLUSIONS = 1 << 20
"""Of all queries of a search."""
ON_CPU = 'set retrieval.device = "cpu"'
ItemDtype = Literal["float32", "float16", "bfloat16"]


class Search(NamedTuple):
    """Pinned host memory of a search under way."""

    excluded_rows: NDArray[np.int32]  # [MAX_EXCLUSIONS]
    excluded_offsets: NDArray[np.int64]  # [B + 1]
    k: NDArray[np.int32]  # [B]
    rows: NDArray[np.int32]  # [B * max_k]
    scores: NDArray[np.float32]  # [B * max_k]


class GpuTopK:
    """Holds the item vectors `[N, D]` and the memory of one search on the GPU.

    Searches that are under way share that memory, so they are queued on one stream.
    """

    def __init__(
        self,
        gpu: Gpu,
        item_vectors: NDArray[np.generic],
        max_queries: int,
        item_dtype: ItemDtype = "float32",
    ) -> None:
        self._native = load_kernels()
        self._gpu = gpu
        self.max_queries = max_queries
        self._num_items, self.dim = item_vectors.shape
        self._item_dtype = item_dtype
        self.max_k = min(MAX_K, self._num_items)
        self._workspace_bytes: int = self._shape(max_queries, self.max_k).workspace_bytes
        self._workspace = gpu.allocate(self._workspace_bytes, ON_CPU)
        self._items = gpu.allocate(item_vectors.nbytes, ON_CPU)
        self._addresses = {
            name: gpu.allocate(size * np.dtype(dtype).itemsize, ON_CPU)
            for name, (size, dtype) in self._sizes().items()
        }
        contiguous = np.ascontiguousarray(item_vectors)
        gpu.upload(self._items, contiguous)
        gpu.synchronize()

    def make_search(self) -> Search:
        allocate = self._gpu.allocate_pinned
        arrays = {name: allocate((size,), dtype) for name, (size, dtype) in self._sizes().items()}
        return Search(**arrays)

    def fits(self, excluded_rows: Sequence[NDArray[np.int32]], k: Sequence[int]) -> bool:
        """Tell whether the memory suffices; the CPU ranks what does not fit, just the same."""
        num_excluded = sum(len(rows) for rows in excluded_rows)
        places = max(min(count, self._num_items) for count in k)
        return (
            len(k) <= self.max_queries and places <= self.max_k and num_excluded <= MAX_EXCLUSIONS
        )

    def queue(
        self,
        search: Search,
        queries: int,
        excluded_rows: Sequence[NDArray[np.int32]],
        k: Sequence[int],
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Queue what `engine.ranking.cpu.retrieve` does, for vectors `[B, D]` float32 on the GPU.

        Gives rows and scores `[B, max(k)]` in pinned memory, to be read once the stream is there.
        """
        num_queries, max_k = len(k), min(max(k), self._num_items)
        num_excluded = sum(len(rows) for rows in excluded_rows)
        rows, offsets = search.excluded_rows[:num_excluded], search.excluded_offsets
        np.concatenate([np.empty(0, np.int32), *excluded_rows], out=rows)
        offsets[0] = 0
        np.cumsum([len(each) for each in excluded_rows], out=offsets[1 : num_queries + 1])
        search.k[:num_queries] = np.minimum(k, self._num_items)
        self._gpu.upload(self._addresses["excluded_rows"], rows)
        self._gpu.upload(self._addresses["excluded_offsets"], offsets[: num_queries + 1])
        self._gpu.upload(self._addresses["k"], search.k[:num_queries])
        self._native.masked_topk(
            self._shape(num_queries, max_k),
            queries=queries,
            items=self._items,
            **self._addresses,
            workspace=self._workspace,
            workspace_bytes=self._workspace_bytes,
            stream=self._gpu.stream,
        )
        found = search.rows[: num_queries * max_k].reshape(num_queries, max_k)
        scores = search.scores[: num_queries * max_k].reshape(num_queries, max_k)
        self._gpu.download(found, self._addresses["rows"])
        self._gpu.download(scores, self._addresses["scores"])
        return found, scores

    def _shape(self, num_queries: int, max_k: int) -> Untyped:
        return self._native.TopKShape(
            num_queries=num_queries,
            num_items=self._num_items,
            dim=self.dim,
            max_k=max_k,
            item_dtype=self._item_dtype,
        )

    def _sizes(self) -> dict[str, tuple[int, type[np.generic]]]:
        num_places = self.max_queries * self.max_k
        return {
            "excluded_rows": (MAX_EXCLUSIONS, np.int32),
            "excluded_offsets": (self.max_queries + 1, np.int64),
            "k": (self.max_queries, np.int32),
            "rows": (num_places, np.int32),
            "scores": (num_places, np.float32),
        }


def load_kernels() -> Untyped:
    """Import the kernels.

    Raises:
        PlanError: they were not built.
    """
    try:
        return importlib.import_module("engine.native._native_cuda")
    except ImportError as error:
        raise PlanError(
            f"the CUDA kernels of the top-k are not built ({error}); install the engine again"
            f" where nvcc 12 or newer is found, or {ON_CPU}"
        ) from error
