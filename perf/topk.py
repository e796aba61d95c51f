"""Times the exact top-k beside NumPy and beside the bytes that it must read.

Both rank random vectors, and every ranking that is timed must be the same. The roof is reading
memory once, measured in the same run. On a GPU the CUDA kernels are timed beside PyTorch's product
and topk there, and must give the CPU kernel's rows and scores, bit for bit. Items and user vectors
lie on the GPU; the copies of the exclusions to it and of the answer from it count, as in serving.
PyTorch copies nothing, and its scores are in the items' precision.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import msgspec
import numpy as np

from engine.gpu import Gpu
from engine.query import Ranking
from engine.ranking.cuda_topk import load_kernels
from llmsrec.progress import track
from perf.answers import Vectors, require_rankings
from perf.command_line import count
from perf.errors import MeasureError
from perf.gpu import topk as gpu_topk
from perf.gpu.topk import TopKCase
from perf.peaks import read_peak_gb_per_s
from perf.timing import Timed, best_ms

DIM = 128
TOLERANCE = 1e-4
"""Allowed distance of scores, as a share of the best one: NumPy sums in another order."""


class TopKTime(msgspec.Struct, frozen=True):
    num_queries: int
    ours_ms: float
    theirs_ms: float
    ours_over_theirs: float
    gb_per_s: float
    """Item vectors read once, whatever the number of queries."""
    share_of_peak: float


class TopKTimes(msgspec.Struct, frozen=True):
    theirs: str
    """The library beside ours."""
    num_items: int
    k: int
    dtype: str
    num_exclusions: int
    """Excluded from each query's answer."""
    device: str
    peak_gb_per_s: float
    times: list[TopKTime]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--items", type=count, default=1_000_000, help="of 128 values")
    add("--queries", type=count, nargs="+", default=[1, 16, 64], help="of one call")
    add("-k", type=count, default=100, help="items to find for each query")
    add("--threads", type=count, default=2, help="of ours on the CPU; NumPy takes what it takes")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what ranks")
    add("--dtype", choices=gpu_topk.DTYPES, default="fp32", help="of the items, on a GPU")
    add("--exclusions", type=int, default=0, help="items that no answer may hold, on a GPU")


def run(arguments: argparse.Namespace) -> TopKTimes:
    """Compare and time.

    Raises:
        MeasureError: what only a GPU does was asked of the CPU, or a ranking was wrong.
        BackendUnavailable: there is no GPU, too little memory on it, or no kernels.
    """
    searches = gpu_topk.draw(arguments, DIM)
    if arguments.device == "cuda":
        load_kernels()
        with closing(Gpu()) as gpu:
            return measure(searches, partial(gpu_topk.time_both, gpu, "cuda"), "pytorch", "cuda")
    if arguments.dtype != "fp32" or arguments.exclusions:
        raise MeasureError("--dtype and --exclusions need --device cuda")
    return measure(searches, partial(time_both, arguments.threads), "numpy", "cpu")


def measure(
    searches: Sequence[TopKCase],
    time_both: Callable[[TopKCase], tuple[float, float]],
    theirs: str,
    device: str,
) -> TopKTimes:
    peak = read_peak_gb_per_s(device)
    times = []
    for search in track(searches, "queries"):
        ours_ms, theirs_ms = time_both(search)
        rate = search.items.nbytes / ours_ms / 1e6
        times.append(
            TopKTime(
                num_queries=len(search.queries),
                ours_ms=ours_ms,
                theirs_ms=theirs_ms,
                ours_over_theirs=ours_ms / theirs_ms,
                gb_per_s=rate,
                share_of_peak=rate / peak,
            )
        )
    first = searches[0]
    return TopKTimes(
        theirs=theirs,
        num_items=len(first.items),
        k=first.k,
        dtype=str(first.items.dtype).removeprefix("torch."),
        num_exclusions=len(first.excluded_rows[0]),
        device=device,
        peak_gb_per_s=peak,
        times=times,
    )


def time_both(num_threads: int, search: TopKCase) -> tuple[float, float]:
    """Give the shortest milliseconds of ours and of NumPy, which must agree."""
    items, k = search.items.numpy(), search.k
    expected = numpy_rankings(items, search.queries, k)

    def check(found: list[Ranking]) -> None:
        what = f"the top-k of {len(search.queries)} queries"
        require_rankings(what, found, expected, TOLERANCE)

    ours = Timed(partial(search.rank_on_cpu, num_threads), check)
    theirs = Timed(partial(numpy_rankings, items, search.queries, k), check)
    return best_ms(ours), best_ms(theirs)


def numpy_rankings(items: Vectors, queries: Vectors, k: int) -> list[Ranking]:
    """Rank as a service without a kernel of its own does."""
    scores = queries @ items.T  # [B, N]
    rows = np.argpartition(scores, -k, axis=1)[:, -k:].astype(np.int32)  # [B, k]
    found = np.take_along_axis(scores, rows, axis=1)  # [B, k]
    order = np.argsort(-found, axis=1)
    rankings = np.take_along_axis(rows, order, axis=1), np.take_along_axis(found, order, axis=1)
    return list(zip(*rankings, strict=True))
