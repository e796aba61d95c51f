"""Times the exact top-k beside NumPy and beside the bytes that it must read.

Both rank random vectors, and must agree before any time is taken. The roof is reading memory once,
measured in the same run. On a GPU the CUDA kernels are timed beside PyTorch's product and topk.
"""

import argparse

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from engine.ranking.cpu import Ranking, retrieve
from perf import topk_cuda
from perf.peaks import best_seconds, read_peak_gb_per_s

DIM = 128
Vectors = NDArray[np.float32]


class Figures(msgspec.Struct, frozen=True):
    num_queries: int
    ours_ms: float
    numpy_ms: float
    ours_over_numpy: float
    gb_per_s: float
    """Of the item vectors, read once whatever the number of queries."""
    share_of_peak: float


class Result(msgspec.Struct, frozen=True):
    num_items: int
    k: int
    num_threads: int
    peak_gb_per_s: float
    figures: list[Figures]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--items", type=int, default=1_000_000, help="of 128 values")
    add("--queries", type=int, nargs="+", default=[1, 16, 64], help="of one call")
    add("-k", type=int, default=100, help="items to find for each query")
    add("--threads", type=int, default=2, help="of ours on the CPU; NumPy takes what it takes")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what ranks")
    add("--dtype", choices=topk_cuda.DTYPES, default="fp32", help="of the items, on a GPU")
    add("--exclusions", type=int, default=0, help="items that no answer may hold, on a GPU")


def run(arguments: argparse.Namespace) -> Result | topk_cuda.Result:
    rng = np.random.default_rng(0)
    items = rng.standard_normal((arguments.items, DIM), np.float32)  # [N, D]
    if arguments.device == "cuda":
        return topk_cuda.run(arguments, items, rng)
    if arguments.dtype != "fp32" or arguments.exclusions:
        raise SystemExit("--dtype and --exclusions need --device cuda")
    peak = read_peak_gb_per_s()
    figures = []
    for num_queries in track(arguments.queries, "queries", console=Console(stderr=True)):
        queries = rng.standard_normal((num_queries, DIM), np.float32)  # [B, D]
        _require_equal(items, queries, arguments.k, arguments.threads)
        ours = best_seconds(lambda: _ours(items, queries, arguments.k, arguments.threads))  # noqa: B023
        theirs = best_seconds(lambda: _numpy(items, queries, arguments.k))  # noqa: B023
        rate = items.nbytes / ours / 1e9
        figures.append(
            Figures(num_queries, ours * 1e3, theirs * 1e3, ours / theirs, rate, rate / peak)
        )
    return Result(arguments.items, arguments.k, arguments.threads, peak, figures)


def _ours(items: Vectors, queries: Vectors, k: int, num_threads: int) -> list[Ranking]:
    nothing = np.empty(0, np.int32)
    return retrieve(queries, items, [nothing] * len(queries), [k] * len(queries), num_threads)


def _numpy(items: Vectors, queries: Vectors, k: int) -> NDArray[np.float32]:
    """Give the best scores `[B, k]` as a service without a kernel of its own finds them."""
    scores = queries @ items.T  # [B, N]
    rows = np.argpartition(scores, -k, axis=1)[:, -k:]
    return -np.sort(-np.take_along_axis(scores, rows, axis=1), axis=1)


def _require_equal(items: Vectors, queries: Vectors, k: int, num_threads: int) -> None:
    found = np.stack([scores for _, scores in _ours(items, queries, k, num_threads)])
    np.testing.assert_allclose(found, _numpy(items, queries, k), rtol=1e-4, atol=1e-4)
