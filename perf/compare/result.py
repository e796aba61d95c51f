"""What a comparison found."""

import statistics
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from export import parity
from export.parity import Bars
from export.recipes import RECIPES
from perf.compare.peer_inputs import Vectors
from perf.environment import Environment

BARS: Mapping[str, Bars] = {
    "int8": Bars(min_cosine=0.99, min_overlap=0.90),
    **{str(precision): recipe.bars for precision, recipe in RECIPES.items()},
}
"""By precision: those of the engine's own bundles, and one that only a peer has."""


class Quality(msgspec.Struct, frozen=True):
    """How close user vectors are to those of PyTorch in fp32."""

    cosine_min: float
    cosine_mean: float
    overlap_at_10: float
    is_equal: bool
    """It meets the bars of its precision."""


class Times(msgspec.Struct, frozen=True):
    median_ms: float
    p25_ms: float
    p75_ms: float


class Row(msgspec.Struct, kw_only=True):
    """One way to run the model; filled in as the run goes on."""

    name: str
    precision: str
    is_ours: bool = False
    versions: dict[str, str] = {}
    quality: Quality | None = None
    times: Times | None = None
    problem: str = ""
    """Why there are no times, and what to do about it."""


class ServiceRow(msgspec.Struct, kw_only=True):
    name: str
    is_ours: bool = False
    answers_overlap: float | None = None
    """Mean share of the expected first ten items."""
    is_equal: bool = False
    versions: dict[str, str] = {}
    times: Times | None = None
    answers_per_s: float | None = None
    """With several clients at once."""
    problem: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    environment: Environment
    num_prompts: int
    mean_tokens: float
    num_users: int
    num_rounds: int
    num_threads: int
    num_clients: int
    rows: list[Row]
    services: list[ServiceRow]


def judge(vectors: Vectors, expected: Vectors, item_vectors: Vectors, precision: str) -> Quality:
    report = parity.compare(vectors, item_vectors, expected, item_vectors)
    bars = BARS[precision]
    return Quality(
        cosine_min=report.cosine_min,
        cosine_mean=report.cosine_mean,
        overlap_at_10=report.overlap_at_10,
        is_equal=report.cosine_min >= bars.min_cosine and report.overlap_at_10 >= bars.min_overlap,
    )


def summarise(times_ms: Sequence[float]) -> Times:
    p25, p75 = np.percentile(times_ms, [25, 75])
    return Times(median_ms=statistics.median(times_ms), p25_ms=float(p25), p75_ms=float(p75))


def best_peer(rows: Sequence[Row]) -> tuple[Row, Times] | None:
    """Give the fastest peer whose vectors are equal, and its times."""
    timed = [
        (row, row.times)
        for row in rows
        if not row.is_ours and row.times and row.quality and row.quality.is_equal
    ]
    return min(timed, key=lambda pair: pair[1].median_ms, default=None)
