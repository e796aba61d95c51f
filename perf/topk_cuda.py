"""Times the exact top-k on a GPU beside PyTorch's matrix product and topk there.

It must give the CPU kernel's rows and scores, bit for bit, before any time is taken. Items and user
vectors lie on the GPU; the copies of the exclusions to it and of the answer from it count, as in
serving. PyTorch copies nothing, and its scores are in the items' precision.
"""

import argparse
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from engine.gpu import Gpu
from engine.ranking.cpu import Ranking, cut, retrieve
from engine.ranking.cuda_topk import GpuTopK, ItemDtype, load_kernels
from perf.peaks import best_seconds, read_peak_gb_per_s

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Vectors = NDArray[np.float32]


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


class DeviceSearch:
    """One search whose items and user vectors lie on the GPU."""

    def __init__(self, gpu: Gpu, search: Search) -> None:
        self._gpu, self._excluded_rows = gpu, search.excluded_rows
        self._k = [search.k] * len(search.queries)
        dtype = cast("ItemDtype", str(search.items.dtype).removeprefix("torch."))
        # NumPy knows no bfloat16.
        stored = search.items.view(torch.int16) if dtype == "bfloat16" else search.items
        self._topk = GpuTopK(gpu, stored.numpy(), len(self._k), dtype)
        self._search = self._topk.make_search()
        self._queries = gpu.allocate(search.queries.nbytes)
        gpu.upload(self._queries, search.queries)
        self.run()

    def run(self) -> None:
        arguments = self._search, self._queries, self._excluded_rows, self._k
        self.rows, self.scores = self._topk.queue(*arguments)
        self._gpu.synchronize()

    def results(self) -> list[Ranking]:
        return cut(self.rows, self.scores)


def run(arguments: argparse.Namespace, items: Vectors, rng: np.random.Generator) -> Result:
    """Compare and time.

    Raises:
        PlanError: there is no GPU, no memory left on it, or the kernels were not built.
    """
    load_kernels()
    with closing(Gpu()) as gpu:
        return measure(gpu, "cuda", draw(arguments, items, rng))


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


def measure(gpu: Gpu, device: str, searches: list[Search]) -> Result:
    peak = read_peak_gb_per_s(device)
    figures = []
    for search in track(searches, "queries", console=Console(stderr=True)):
        topk = DeviceSearch(gpu, search)
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
