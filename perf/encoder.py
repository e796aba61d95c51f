"""Times forwards of a bundle's encoder beside the arithmetic that they must do.

The arithmetic is counted in the graph: its matrix products, and attention over the tokens before
each one. The roof is PyTorch's matrix product in the bundle's precision, where the bundle runs,
measured in the same run; for int16, twice that of fp32, and for fp8, twice that of fp16.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import onnx
from rich.console import Console
from rich.progress import track

from engine.bundle.manifest import GRAPH_FILE, Bucket, Manifest
from engine.bundle.opened import open_bundle
from engine.config import Config
from engine.pipelines.open import open_ranker
from engine.request import Prompt
from engine.sizes import fill
from export.build import DTYPES
from llmsrec.prompt import MAX_PROMPT_TOKENS
from perf.flops import count_flop
from perf.peaks import matrix_peak_gflops


class Figures(msgspec.Struct, frozen=True):
    """Of one size of forward."""

    num_users: int
    num_tokens: int
    """Of each prompt."""
    median_ms: float
    users_per_s: float
    tokens_per_s: float
    gflop: float
    gflop_per_s: float
    share_of_peak: float
    roof_users_per_s: float
    """At the peak."""


class Result(msgspec.Struct, frozen=True):
    precision: str
    peak_gflop_per_s: float
    figures: list[Figures]


class Size(NamedTuple):
    num_users: int
    num_tokens: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    add_size_arguments(parser)


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all timings of forwards take."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--users", type=int, nargs="+", default=[1], help="prompts of one forward")
    summary = f"of each prompt, 2 to {MAX_PROMPT_TOKENS}; each is timed with each of --users"
    add("--tokens", type=int, nargs="+", default=[350], help=summary)
    add("--rounds", type=int, default=20, help="timings of each size")
    add("--warm-up", type=int, default=3, help="forwards before them, not timed")


def run(arguments: argparse.Namespace) -> Result:
    bundle = open_bundle(arguments.bundle)
    with closing(open_ranker(bundle, Config())) as encoder:
        times = time_sizes(lambda prompts: encoder.encode(prompts, "user_vector"), arguments)
    graph = onnx.load(bundle.path / GRAPH_FILE, load_external_data=False)
    peak = roof_gflops(bundle.manifest)
    return Result(
        precision=bundle.manifest.precision,
        peak_gflop_per_s=peak,
        figures=[
            figures_of(size, seconds, count_flop(graph, *size), peak)
            for size, seconds in times.items()
        ],
    )


def time_sizes(
    encode: Callable[[Sequence[Prompt]], object], arguments: argparse.Namespace
) -> dict[Size, float]:
    """Give the median seconds of a forward of each size."""
    pairs = itertools.product(arguments.tokens, arguments.users)
    sizes = [Size(num_users, num_tokens) for num_tokens, num_users in pairs]
    medians = {}
    for size in track(sizes, "sizes", console=Console(stderr=True)):
        prompts = fill(Bucket(size.num_users, size.num_tokens))
        times = []
        for _ in range(arguments.warm_up + arguments.rounds):
            started = time.perf_counter()
            encode(prompts)
            times.append(time.perf_counter() - started)
        medians[size] = statistics.median(times[arguments.warm_up :])
    return medians


def figures_of(size: Size, seconds: float, num_flop: int, peak_gflops: float) -> Figures:
    gflop = num_flop / 1e9
    return Figures(
        num_users=size.num_users,
        num_tokens=size.num_tokens,
        median_ms=seconds * 1e3,
        users_per_s=size.num_users / seconds,
        tokens_per_s=size.num_users * size.num_tokens / seconds,
        gflop=gflop,
        gflop_per_s=gflop / seconds,
        share_of_peak=gflop / seconds / peak_gflops,
        roof_users_per_s=peak_gflops * size.num_users / gflop,
    )


def roof_gflops(manifest: Manifest) -> float:
    """Measure the matrix peak; an instruction has twice the products in int16 and in fp8."""
    device = "cpu" if manifest.backend == "onnxruntime" else "cuda"
    peak = matrix_peak_gflops(device, DTYPES[manifest.precision])
    return 2 * peak if manifest.precision in {"int16", "fp8"} else peak
