"""Times forwards of a bundle's encoder beside the arithmetic that they must do.

The arithmetic is counted in the graph: its matrix products, and attention over the tokens before
each one. The roof is PyTorch's matrix product in the bundle's precision, where the bundle runs,
measured in the same run; for int16, twice that of fp32, and for fp8, twice that of fp16. Every
vector that is timed must be that of its prompt alone.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx

from engine.bundle.manifest import GRAPH_FILE, Manifest
from engine.bundle.opened import open_bundle
from engine.query import Prompt
from export.recipes import RECIPES
from llmsrec.progress import track
from llmsrec.prompt import MAX_PROMPT_TOKENS
from perf.answers import Vectors, require_vectors, tolerance_of
from perf.command_line import count
from perf.engine_access import Encode, Engine, make_prompts
from perf.flops import count_flop
from perf.peaks import matrix_peak_gflops
from perf.timing import Timed, time_calls


class Size(NamedTuple):
    num_users: int
    num_tokens: int


class Forward(msgspec.Struct, frozen=True):
    """A forward of one size."""

    num_users: int
    num_tokens: int
    """The length of each prompt."""
    median_ms: float
    users_per_s: float
    tokens_per_s: float
    gflop: float
    gflop_per_s: float
    share_of_peak: float
    roof_users_per_s: float
    """What the peak would allow."""


class Forwards(msgspec.Struct, frozen=True):
    runs_on: dict[str, str]
    """The backend or device, and what else the times depend on."""
    precision: str
    peak_gflop_per_s: float
    sizes: list[Forward]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="what to encode with")
    add_size_arguments(parser)


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all timings of forwards take."""
    add = parser.add_argument
    add("--users", type=count, nargs="+", default=[1], help="prompts of one forward")
    summary = f"of each prompt, 2 to {MAX_PROMPT_TOKENS}; each is timed with each of --users"
    add("--tokens", type=count, nargs="+", default=[350], help=summary)
    add("--rounds", type=count, default=20, help="timings of each size")
    add("--warm-up", type=int, default=3, help="forwards before them, not timed")


def run(arguments: argparse.Namespace) -> Forwards:
    bundle = open_bundle(arguments.bundle)
    manifest = bundle.manifest
    with closing(Engine(bundle)) as engine:
        times_ms = time_sizes(
            engine.encode,
            expected=partial(encode_alone, engine.encode),
            tolerance=tolerance_of(manifest.encoder.precision),
            arguments=arguments,
        )
    graph = onnx.load(bundle.path / GRAPH_FILE, load_external_data=False)
    return describe(
        times_ms,
        partial(count_flop, graph),
        {"backend": manifest.encoder.backend},
        manifest.encoder.precision,
        roof_gflops(manifest),
    )


def encode_alone(encode: Encode, prompts: Sequence[Prompt]) -> Vectors:
    """Give the vector of each prompt when it shares no forward."""
    return np.concatenate([encode([prompt]) for prompt in prompts])


def time_sizes(
    encode: Encode, expected: Encode, tolerance: float, arguments: argparse.Namespace
) -> dict[Size, float]:
    """Give the median milliseconds of a forward of each size.

    Raises:
        WrongAnswer: a vector that was timed is not what `expected` gave.
    """
    pairs = itertools.product(arguments.tokens, arguments.users)
    sizes = [Size(num_users, num_tokens) for num_tokens, num_users in pairs]
    medians = {}
    for size in track(sizes, "sizes"):
        prompts = make_prompts(*size)
        what = f"a forward of {size.num_users} x {size.num_tokens} tokens"
        check = partial(require_vectors, what, expected=expected(prompts), tolerance=tolerance)
        forward = Timed(partial(encode, prompts), check)
        medians[size] = statistics.median(time_calls(forward, arguments.rounds, arguments.warm_up))
    return medians


def describe(
    times_ms: dict[Size, float],
    count_size: Callable[[int, int], int],
    runs_on: dict[str, str],
    precision: str,
    peak_gflop_per_s: float,
) -> Forwards:
    sizes = []
    for size, median_ms in times_ms.items():
        seconds, gflop = median_ms / 1e3, count_size(*size) / 1e9
        sizes.append(
            Forward(
                num_users=size.num_users,
                num_tokens=size.num_tokens,
                median_ms=median_ms,
                users_per_s=size.num_users / seconds,
                tokens_per_s=size.num_users * size.num_tokens / seconds,
                gflop=gflop,
                gflop_per_s=gflop / seconds,
                share_of_peak=gflop / seconds / peak_gflop_per_s,
                roof_users_per_s=peak_gflop_per_s * size.num_users / gflop,
            )
        )
    return Forwards(runs_on, precision, peak_gflop_per_s, sizes)


def roof_gflops(manifest: Manifest) -> float:
    """Measure the matrix peak; an instruction has twice the products in int16 and in fp8."""
    device = "cpu" if manifest.encoder.backend == "onnxruntime" else "cuda"
    recipe = RECIPES[manifest.encoder.precision]
    return recipe.products_per_instruction * matrix_peak_gflops(device, recipe.dtype)
