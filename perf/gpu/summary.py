"""Lays what `perf/gpu.sh` left in a folder beside what the engine is meant to reach."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, get_args

import msgspec

from engine.bundle.manifest import Backend
from perf.encoder import Forward, Forwards
from perf.gpu.llm_shapes import SHAPES
from perf.load.outcome import Outcome
from perf.topk import TopKTimes

MAX_TOPK_MS, TOPK_QUERIES, TOPK_ITEMS = 1.0, 64, 1_000_000
MIN_USERS_PER_S, USER_TOKENS, MAX_P99_MS = 215.0, 400, 100.0
MIN_SPEED_UP = 1.5
BACKENDS = get_args(Backend)
GPU_BACKENDS = [backend for backend in BACKENDS if backend != "onnxruntime"]
PEERS = {"PyTorch": "pytorch", "torch.compile": "pytorch-compiled"}
"""Their names, and what their files are called."""

T = TypeVar("T", bound=msgspec.Struct)


class Bar(NamedTuple):
    what: str
    bar: str
    measured: str = "not measured"
    is_met: bool | None = None

    def verdict(self) -> str:
        return {None: "-", True: "met", False: "MISSED"}[self.is_met]


class ForwardsOfShape(NamedTuple):
    shape: str
    engine: dict[str, Forwards]
    """By the backend."""
    pytorch: dict[str, Forwards]
    """Eager and compiled."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the --output of perf/gpu.sh")


def run(arguments: argparse.Namespace) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in summarise(arguments.folder)))
    return 0


def summarise(folder: Path) -> Iterator[str]:
    shapes = [_read_forwards(folder, shape) for shape in SHAPES]
    bars = [_topk_bar(_read(folder / "topk-fp16.json", TopKTimes))]
    for backend in GPU_BACKENDS:
        outcome = _read(folder / f"llama-3.2-3b-{backend}-load.json", Outcome)
        bars += _load_bars(backend, outcome)
    bars += [bar for shape in shapes for bar in _speed_up_bars(shape)]
    yield f"{'what':<76}{'bar':>9}{'measured':>14}  verdict"
    yield from (f"{bar.what:<76}{bar.bar:>9}{bar.measured:>14}  {bar.verdict()}" for bar in bars)
    for shape in shapes:
        for name, forwards in (shape.engine | shape.pytorch).items():
            yield from _curve(f"{shape.shape}, random weights: {name}", forwards)


def _read_forwards(folder: Path, shape: str) -> ForwardsOfShape:
    engine = {name: f"{shape}-{name}-encoder" for name in BACKENDS}
    peers = {name: f"{shape}-{file}" for name, file in PEERS.items()}
    return ForwardsOfShape(shape, _read_all(folder, engine), _read_all(folder, peers))


def _read_all(folder: Path, files: dict[str, str]) -> dict[str, Forwards]:
    found = {name: _read(folder / f"{file}.json", Forwards) for name, file in files.items()}
    return {name: forwards for name, forwards in found.items() if forwards is not None}


def _read(path: Path, kind: type[T]) -> T | None:
    return msgspec.json.decode(path.read_bytes(), type=kind) if path.exists() else None


def _topk_bar(result: TopKTimes | None) -> Bar:
    what = f"top-k, {TOPK_QUERIES} queries, {TOPK_ITEMS:,} x 128 fp16, exclusions: ms"
    bar = Bar(what, f"<= {MAX_TOPK_MS:g}")
    if result is None or result.num_items != TOPK_ITEMS or not result.num_exclusions:
        return bar
    for each in result.times:
        if each.num_queries == TOPK_QUERIES:
            found = each.ours_ms
            return bar._replace(measured=f"{found:.3f}", is_met=found <= MAX_TOPK_MS)
    return bar


def _load_bars(backend: str, outcome: Outcome | None) -> list[Bar]:
    """Scale the rate to prompts of 400 tokens by the prompt tokens that were answered."""
    rate = Bar(
        f"llama-3.2-3b {backend}, Recommend in an open loop: users/s of {USER_TOKENS} tokens",
        f">= {MIN_USERS_PER_S:g}",
    )
    p99 = Bar("    p99 at that rate: ms", f"<= {MAX_P99_MS:g}")
    result = outcome.result if outcome is not None else None
    if outcome is None or result is None or result.batches is None or result.latency is None:
        return [rate, p99]
    users_per_s, p99_ms = result.batches.tokens_per_s / USER_TOKENS, result.latency.p99_ms
    mark = ", void" if outcome.is_void() else ""
    return [
        rate._replace(measured=f"{users_per_s:.1f}{mark}", is_met=users_per_s >= MIN_USERS_PER_S),
        p99._replace(measured=f"{p99_ms:.1f}", is_met=p99_ms <= MAX_P99_MS),
    ]


def _speed_up_bars(shape: ForwardsOfShape) -> Iterator[Bar]:
    """Compare the best batch of each at each length, on a GPU."""
    for backend, ours in shape.engine.items():
        for name, theirs in shape.pytorch.items():
            if backend not in GPU_BACKENDS:
                continue
            best, best_theirs = _best(ours.sizes), _best(theirs.sizes)
            for num_tokens in sorted(best.keys() & best_theirs.keys()):
                ratio = best[num_tokens] / best_theirs[num_tokens]
                yield Bar(
                    f"{shape.shape}, {num_tokens} tokens: users/s of {backend} {ours.precision}"
                    f" / {name} {theirs.precision}",
                    f">= {MIN_SPEED_UP:g}",
                    f"{ratio:.2f}",
                    ratio >= MIN_SPEED_UP,
                )


def _best(sizes: Sequence[Forward]) -> dict[int, float]:
    """Give the users per second of the best batch, by the prompts' tokens."""
    best: dict[int, float] = {}
    for each in sizes:
        best[each.num_tokens] = max(best.get(each.num_tokens, 0), each.users_per_s)
    return best


def _curve(title: str, forwards: Forwards) -> Iterator[str]:
    peak = forwards.peak_gflop_per_s / 1e3
    yield f"\n{title} {forwards.precision}, measured matrix peak {peak:.4g} TFLOP/s"
    yield f"{'tokens':>8}{'users':>8}{'ms':>12}{'users/s':>12}{'at peak':>12}{'of peak':>10}"
    for each in forwards.sizes:
        yield (
            f"{each.num_tokens:>8}{each.num_users:>8}{each.median_ms:>12.2f}"
            f"{each.users_per_s:>12.1f}{each.roof_users_per_s:>12.1f}{each.share_of_peak:>10.1%}"
        )
