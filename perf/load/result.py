"""What a run came to, in figures: the content of the JSON file and of the report."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsrec.v1 import recommender_pb2 as pb
from perf.load.batches import Batches, summarise_batches
from perf.load.client import SentRequest
from perf.load.options import LoadOptions
from perf.load.schedule import Schedule

MIN_SENT_SHARE = 0.99
"""A run that sends less of its target rate measured the clients, not the server: it is void."""
POINTS_PER_DECADE = 50
MAX_SLICES, MIN_REQUESTS_PER_SLICE = 60, 10
STAGES = [field.name for field in pb.StageTimings.DESCRIPTOR.fields]

Times = Sequence[float] | NDArray[np.float64]


class Latency(msgspec.Struct, frozen=True):
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Answers within the objective: of all requests, and per second."""

    objective_ms: float
    share: float
    rate: float


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that were meant to be sent in one slice of time."""

    start_s: float
    """Since the end of the warm-up."""
    num_answers: int
    num_failed: int
    latency: Latency | None


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    is_void: bool
    target_rate: float
    achieved_rate: float
    num_requests: int
    num_answers: int
    failures: dict[str, int]
    """By gRPC status."""
    goodput: Goodput
    latency: Latency | None
    """Times of answers, from the intended time of sending; None where there was none."""
    send_lag: Latency | None
    """How much later than intended the clients sent; None where they sent nothing."""
    stages: dict[str, Latency]
    """The server's own timings, as its answers carry them."""
    batches: Batches | None
    """None where the server's answers do not tell."""
    curve: list[tuple[float, float]]
    """Percentile and latency in ms, evenly spaced in the logarithm of what is above them."""
    moments: list[Moment]


def summarise(schedule: Schedule, sent: Sequence[SentRequest], options: LoadOptions) -> LoadResult:
    answers = [each for each in sent if not each.status]
    replies = [pb.RecommendResponse.FromString(each.reply) for each in answers]
    latencies_ms = np.array([each.latency_ms for each in answers])
    num_good = int(np.count_nonzero(latencies_ms <= options.objective_ms))
    last_send_s = max((each.intended_s + each.lag_ms / 1e3 for each in sent), default=0.0)
    last_answer_s = max((each.intended_s + each.latency_ms / 1e3 for each in answers), default=0.0)
    num_requests, duration_s = schedule.num_measured(), schedule.duration_s
    target_rate = num_requests / duration_s
    achieved_rate = len(sent) / max(duration_s, last_send_s)
    failures = Counter(each.status for each in sent if each.status)
    return LoadResult(
        is_void=achieved_rate < MIN_SENT_SHARE * target_rate,
        target_rate=target_rate,
        achieved_rate=achieved_rate,
        num_requests=num_requests,
        num_answers=len(answers),
        failures=dict(failures.most_common()),
        goodput=Goodput(
            objective_ms=options.objective_ms,
            share=num_good / num_requests,
            rate=num_good / duration_s,
        ),
        latency=_describe(latencies_ms),
        send_lag=_describe([each.lag_ms for each in sent]),
        stages={
            name: times
            for name in STAGES
            if (times := _describe([getattr(reply.timings, name) for reply in replies]))
        },
        batches=summarise_batches(replies, max(duration_s, last_answer_s)),
        curve=_draw_curve(latencies_ms),
        moments=_split_by_time(sent, duration_s),
    )


def _split_by_time(sent: Sequence[SentRequest], duration_s: float) -> list[Moment]:
    """Show a run in slices of time, none of them nearly empty."""
    num_slices = min(max(len(sent) // MIN_REQUESTS_PER_SLICE, 1), MAX_SLICES)
    slices: list[list[SentRequest]] = [[] for _ in range(num_slices)]
    for each in sent:
        slices[min(int(each.intended_s / duration_s * num_slices), num_slices - 1)].append(each)
    moments = []
    for number, requests in enumerate(slices):
        latencies_ms = [each.latency_ms for each in requests if not each.status]
        moments.append(
            Moment(
                start_s=number * duration_s / num_slices,
                num_answers=len(latencies_ms),
                num_failed=len(requests) - len(latencies_ms),
                latency=_describe(latencies_ms),
            )
        )
    return moments


def _percentiles(times_ms: Times, percentiles: Sequence[float]) -> list[float]:
    """Give the shortest times that these percentages of all times do not exceed."""
    found: list[float] = np.percentile(times_ms, percentiles, method="inverted_cdf").tolist()
    return found


def _describe(times_ms: Times) -> Latency | None:
    return Latency(*_percentiles(times_ms, [50, 90, 99, 99.9, 100])) if len(times_ms) else None


def _draw_curve(times_ms: Times) -> list[tuple[float, float]]:
    """Go as far as there are times above the percentile."""
    if not len(times_ms):
        return []
    num_points = int(math.log10(len(times_ms)) * POINTS_PER_DECADE) + 1
    percentiles = [100 - 100 * 10 ** (-point / POINTS_PER_DECADE) for point in range(num_points)]
    return list(zip(percentiles, _percentiles(times_ms, percentiles), strict=True))
