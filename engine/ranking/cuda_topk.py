"""Exact top-k on the GPU: the item vectors lie there, and only rows and scores come back."""

import importlib
import threading
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable
from engine.gpu import Gpu
from engine.query import Search
from engine.ranking.ranker import PackedSearches, pack_into
from engine.untyped import Untyped

MAX_K = 1000
"""Memory for candidates grows with it; a request may ask for more, and the CPU answers it."""
MAX_EXCLUSIONS = 1 << 20
"""The most excluded rows of all queries of a call; the CPU ranks where there are more."""
ON_CPU = 'set retrieval.device = "cpu"'
ItemDtype = Literal["float32", "float16", "bfloat16"]


class PinnedBuffers(NamedTuple):
    """Host memory of one call, which the GPU copies from and to by itself."""

    searches: PackedSearches  # [MAX_EXCLUSIONS], [B + 1] and [B]
    rows: NDArray[np.int32]  # [B * max_k]
    scores: NDArray[np.float32]  # [B * max_k]


class CudaTopK:
    """Holds the item vectors `[N, D]` and the memory of one call on the GPU.

    `items` are stored as given: float32, float16, or bfloat16 as its 16 bits. Calls under way share
    the memory, so they are queued one after another on one stream.
    """

    def __init__(
        self,
        gpu: Gpu,
        items: NDArray[np.generic],
        max_queries: int,
        item_dtype: ItemDtype = "float32",
    ) -> None:
        self._native = load_kernels()
        self._gpu = gpu
        self.max_queries = max_queries
        self._num_items, self.dim = items.shape
        self._item_dtype = item_dtype
        self.max_k = min(MAX_K, self._num_items)
        self._queueing = threading.Lock()
        self._workspace_bytes: int = self._shape(max_queries, self.max_k).workspace_bytes
        self._workspace = gpu.allocate(self._workspace_bytes, ON_CPU)
        self._items = gpu.allocate(items.nbytes, ON_CPU)
        self._addresses = {
            name: gpu.allocate(size * np.dtype(dtype).itemsize, ON_CPU)
            for name, (size, dtype) in self._sizes().items()
        }
        contiguous = np.ascontiguousarray(items)
        gpu.upload(self._items, contiguous)
        gpu.synchronize()

    def make_buffers(self) -> PinnedBuffers:
        allocate = self._gpu.allocate_pinned
        arrays = {name: allocate((size,), dtype) for name, (size, dtype) in self._sizes().items()}
        rows, scores = arrays.pop("rows"), arrays.pop("scores")
        return PinnedBuffers(PackedSearches(**arrays), rows, scores)

    def fits(self, searches: Sequence[Search]) -> bool:
        """Tell whether the memory suffices."""
        num_excluded = sum(len(search.excluded_rows) for search in searches)
        places = max(min(search.k, self._num_items) for search in searches)
        return (
            len(searches) <= self.max_queries
            and places <= self.max_k
            and num_excluded <= MAX_EXCLUSIONS
        )

    def queue(
        self, buffers: PinnedBuffers, user_vectors: int, searches: Sequence[Search]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Queue the ranking for vectors `[B, D]` float32 at an address on the GPU.

        Gives rows and scores `[B, max(k)]` in pinned memory, to be read once the stream is there.
        """
        packed = pack_into(buffers.searches, searches, self._num_items)
        num_queries, max_k = len(searches), int(packed.k.max())
        num_places = num_queries * max_k
        rows = buffers.rows[:num_places].reshape(num_queries, max_k)
        scores = buffers.scores[:num_places].reshape(num_queries, max_k)
        with self._queueing:
            for name, array in packed._asdict().items():
                self._gpu.upload(self._addresses[name], array)
            self._native.masked_topk(
                self._shape(num_queries, max_k),
                queries=user_vectors,
                items=self._items,
                **self._addresses,
                workspace=self._workspace,
                workspace_bytes=self._workspace_bytes,
                stream=self._gpu.stream,
            )
            self._gpu.download(rows, self._addresses["rows"])
            self._gpu.download(scores, self._addresses["scores"])
        return rows, scores

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
        BackendUnavailable: they were not built.
    """
    try:
        return importlib.import_module("engine.native._native_cuda")
    except ImportError as error:
        raise BackendUnavailable(
            f"the CUDA kernels of the top-k are not built ({error}); install the engine again"
            f" where nvcc 12 or newer is found, or {ON_CPU}"
        ) from error
