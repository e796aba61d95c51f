"""Times the CUDA kernels' exact top-k beside PyTorch's matrix product and topk on the same GPU.

The kernels must give the CPU kernel's rows and scores, bit for bit, before any time is taken. A
call counts until the device is done; what it reads lies on the device already, and its answer stays
there. PyTorch's scores are in the items' precision.
"""

import argparse
import importlib
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple, Protocol, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from engine.backends.tensorrt.cuda import Gpu
from engine.retrieval import Ranking, retrieve
from perf.peaks import best_seconds, read_peak_gb_per_s

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Array = NDArray[np.generic]
Vectors = NDArray[np.float32]


class Kernels(Protocol):
    """What is taken of `_native_cuda`."""

    @property
    def TopKShape(self) -> Callable[..., Any]: ...  # noqa: N802
    @property
    def masked_topk(self) -> Callable[..., None]: ...


class Memory(Protocol):
    """What is taken of `Gpu`."""

    stream: int

    def allocate(self, num_bytes: int) -> int: ...
    def upload(self, address: int, array: Array) -> None: ...
    def download(self, array: Array, address: int) -> None: ...
    def synchronize(self) -> None: ...


class Figures(msgspec.Struct, frozen=True):
    num_queries: int
    ours_ms: float
    pytorch_ms: float
    ours_over_pytorch: float
    gb_per_s: float
    """Of the item vectors, read once whatever the number of queries."""
    share_of_peak: float


class Result(msgspec.Struct, frozen=True):
    num_items: int
    k: int
    dtype: str
    num_exclusions: int
    """Of each query."""
    device: str
    peak_gb_per_s: float
    figures: list[Figures]


class Search(NamedTuple):
    queries: Vectors  # [B, D]
    items: torch.Tensor  # [N, D]
    excluded_rows: list[NDArray[np.int32]]
    """Of each query, sorted and unique."""
    k: int


class DeviceTopK:
    """One search whose arrays lie on the device."""

    def __init__(self, native: Kernels, memory: Memory, search: Search) -> None:
        self._native, self._memory = native, memory
        num_queries, dim = search.queries.shape
        self._shape = native.TopKShape(
            num_queries=num_queries,
            num_items=len(search.items),
            dim=dim,
            max_k=search.k,
            item_dtype=str(search.items.dtype).removeprefix("torch."),
        )
        self._rows = np.empty((num_queries, search.k), np.int32)
        self._scores = np.empty((num_queries, search.k), np.float32)
        inputs = _list_inputs(search)
        arrays = {**inputs, "rows": self._rows, "scores": self._scores}
        self._addresses = {
            name: memory.allocate(max(1, array.nbytes)) for name, array in arrays.items()
        }
        self._workspace = memory.allocate(self._shape.workspace_bytes)
        for name, array in inputs.items():
            memory.upload(self._addresses[name], array)
        memory.synchronize()

    def run(self) -> None:
        self._native.masked_topk(
            self._shape,
            **self._addresses,
            workspace=self._workspace,
            workspace_bytes=self._shape.workspace_bytes,
            stream=self._memory.stream,
        )
        self._memory.synchronize()

    def results(self) -> list[Ranking]:
        self._memory.download(self._rows, self._addresses["rows"])
        self._memory.download(self._scores, self._addresses["scores"])
        self._memory.synchronize()
        counts = np.count_nonzero(self._rows >= 0, axis=1)  # [B]
        return [
            (rows[:count], scores[:count])
            for rows, scores, count in zip(self._rows, self._scores, counts, strict=True)
        ]


def run(arguments: argparse.Namespace, items: Vectors, rng: np.random.Generator) -> Result:
    """Compare and time; without a GPU or the kernels, say what is missing.

    Raises:
        PlanError: there is no device, or no memory left on it.
    """
    native = load_kernels()
    with closing(Gpu()) as gpu:
        return measure(native, gpu, "cuda", draw(arguments, items, rng))


def load_kernels() -> Kernels:
    try:
        native = importlib.import_module("engine.native._native_cuda")
    except ImportError as error:
        raise SystemExit(
            f"the CUDA kernels are not built ({error}); install the engine where nvcc 12 or newer"
            " is found, see docs/gpu.md"
        ) from error
    if native.device_count() == 0:
        raise SystemExit("no CUDA device is found; use a machine with a GPU and its driver")
    return cast("Kernels", native)


def draw(arguments: argparse.Namespace, items: Vectors, rng: np.random.Generator) -> list[Search]:
    """Draw as many searches as there are numbers of queries, over the same items."""
    stored = torch.from_numpy(items).to(DTYPES[arguments.dtype])
    num_items, dim = items.shape
    return [
        Search(
            queries=rng.standard_normal((num_queries, dim), np.float32),
            items=stored,
            excluded_rows=[
                np.sort(rng.choice(num_items, arguments.exclusions, replace=False)).astype(np.int32)
                for _ in range(num_queries)
            ],
            k=arguments.k,
        )
        for num_queries in arguments.queries
    ]


def measure(native: Kernels, memory: Memory, device: str, searches: list[Search]) -> Result:
    peak = read_peak_gb_per_s(device)
    figures = []
    for search in track(searches, "queries", console=Console(stderr=True)):
        topk = DeviceTopK(native, memory, search)
        topk.run()
        require_equal(topk.results(), search)
        ours, theirs = best_seconds(topk.run), best_seconds(make_pytorch(search, device))
        rate = search.items.nbytes / ours / 1e9
        figures.append(
            Figures(len(search.queries), ours * 1e3, theirs * 1e3, ours / theirs, rate, rate / peak)
        )
    first = searches[0]
    return Result(
        num_items=len(first.items),
        k=first.k,
        dtype=str(first.items.dtype).removeprefix("torch."),
        num_exclusions=len(first.excluded_rows[0]),
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        peak_gb_per_s=peak,
        figures=figures,
    )


def require_equal(found: list[Ranking], search: Search) -> None:
    """Hold a ranking to that of the CPU's kernel, which reads the items widened to fp32."""
    items = search.items.float().numpy()
    counts = [search.k] * len(search.queries)
    expected = retrieve(search.queries, items, search.excluded_rows, counts, num_threads=2)
    for (rows, scores), (expected_rows, expected_scores) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(scores, expected_scores)


def make_pytorch(search: Search, device: str) -> Callable[[], torch.Tensor]:
    """Give a call that ranks with PyTorch alone, its inputs on the device already."""
    queries = torch.from_numpy(search.queries).to(device, search.items.dtype)
    items = search.items.to(device)
    num_excluded = torch.tensor([len(rows) for rows in search.excluded_rows])
    owners = torch.arange(len(queries)).repeat_interleave(num_excluded).to(device)
    rows = torch.from_numpy(np.concatenate(search.excluded_rows)).long().to(device)

    def rank() -> torch.Tensor:
        scores = queries @ items.T  # [B, N]
        scores[owners, rows] = -torch.inf
        best = scores.topk(min(search.k, len(items)), dim=1).indices  # [B, k]
        if device == "cuda":
            torch.cuda.synchronize()
        return best

    return rank


def _list_inputs(search: Search) -> dict[str, Array]:
    offsets = np.zeros(len(search.queries) + 1, np.int64)
    np.cumsum([len(rows) for rows in search.excluded_rows], out=offsets[1:])
    return {
        "queries": search.queries,
        "items": search.items.view(torch.uint8).numpy(),
        "excluded_rows": np.concatenate([np.empty(0, np.int32), *search.excluded_rows]),
        "excluded_offsets": offsets,
        "k": np.full(len(search.queries), search.k, np.int32),
    }
