"""What a run came to, in figures: the content of the JSON file and of the report."""

import math

import msgspec

from perf.load.batches import Batches
from perf.load.histogram import Histogram
from perf.load.plan import Plan
from perf.load.settings import Clients
from perf.load.tally import Tally

MIN_SENT_SHARE = 0.99
"""A run that sends less of its target rate measured the clients, not the server: it is void."""
POINTS_PER_DECADE = 50


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
    """The requests that were meant to be sent in one slot of time."""

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
    """Of answers, from the intended time of sending; None where there was none."""
    send_lag: Latency
    """How much later than intended the clients sent."""
    stages: dict[str, Latency]
    """The server's own timings, as its answers carry them."""
    batches: Batches | None
    """None where the server's answers do not tell."""
    curve: list[tuple[float, float]]
    """Percentile and latency in ms, evenly spaced in the logarithm of what is above them."""
    moments: list[Moment]


def summarise(plan: Plan, tally: Tally, clients: Clients) -> LoadResult:
    num_requests = plan.num_measured()
    target_rate = num_requests / plan.duration_s
    achieved_rate = tally.num_sent / max(plan.duration_s, tally.last_send_s)
    slot_s = plan.duration_s / len(tally.slots)
    return LoadResult(
        is_void=achieved_rate < MIN_SENT_SHARE * target_rate,
        target_rate=target_rate,
        achieved_rate=achieved_rate,
        num_requests=num_requests,
        num_answers=len(tally.latency),
        failures=dict(tally.failures.most_common()),
        goodput=Goodput(
            objective_ms=clients.objective_ms,
            share=tally.num_within_objective / num_requests,
            rate=tally.num_within_objective / plan.duration_s,
        ),
        latency=_describe(tally.latency) if len(tally.latency) else None,
        send_lag=_describe(tally.send_lag),
        stages={name: _describe(times) for name, times in tally.stages.items()},
        batches=tally.batches.summarise(max(plan.duration_s, tally.last_answer_s)),
        curve=_draw_curve(tally.latency),
        moments=[
            Moment(
                start_s=number * slot_s,
                num_answers=len(slot.latency),
                num_failed=slot.num_failed,
                latency=_describe(slot.latency) if len(slot.latency) else None,
            )
            for number, slot in enumerate(tally.slots)
        ],
    )


def _describe(times: Histogram) -> Latency:
    return Latency(*times.percentiles_ms([50, 90, 99, 99.9, 100]))


def _draw_curve(times: Histogram) -> list[tuple[float, float]]:
    """Go as far as there are times above the percentile."""
    if not len(times):
        return []
    num_points = int(math.log10(len(times)) * POINTS_PER_DECADE) + 1
    percentiles = [100 - 100 * 10 ** (-point / POINTS_PER_DECADE) for point in range(num_points)]
    return list(zip(percentiles, times.percentiles_ms(percentiles), strict=True))
