"""What the clients count while they measure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from perf.load.batches import BatchTally
from perf.load.histogram import Histogram
from perf.load.plan import Plan

MAX_SLOTS = 60
MIN_REQUESTS_PER_SLOT = 10


def count_slots(plan: Plan) -> int:
    """Give how many slots of time a run is shown in, none of them nearly empty."""
    return min(max(plan.num_measured() // MIN_REQUESTS_PER_SLOT, 1), MAX_SLOTS)


@dataclass(slots=True)
class Slot:
    """A part of the measured time, and the requests that were meant to be sent in it."""

    latency: Histogram = field(default_factory=Histogram)
    num_failed: int = 0

    def merge(self, other: "Slot") -> None:
        self.latency.merge(other.latency)
        self.num_failed += other.num_failed


@dataclass(slots=True)
class Tally:
    """The measured requests of one client, or of several merged."""

    slots: list[Slot]
    num_sent: int = 0
    num_within_objective: int = 0
    last_send_s: float = 0.0
    """When the last request was really sent, since the end of the warm-up."""
    last_answer_s: float = 0.0
    """When the last answer came, since then as well."""
    latency: Histogram = field(default_factory=Histogram)
    """Of answers, from the intended time of sending."""
    send_lag: Histogram = field(default_factory=Histogram)
    stages: dict[str, Histogram] = field(default_factory=dict)
    batches: BatchTally = field(default_factory=BatchTally)
    failures: Counter[str] = field(default_factory=Counter)
    """Requests by the gRPC status that they ended with instead of an answer."""

    def add_send(self, lag_ms: float, sent_s: float) -> None:
        self.num_sent += 1
        self.send_lag.record(lag_ms)
        self.last_send_s = max(self.last_send_s, sent_s)

    def add_answer(
        self, slot: int, latency_ms: float, stages_ms: Mapping[str, float], objective_ms: float
    ) -> None:
        self.latency.record(latency_ms)
        self.slots[slot].latency.record(latency_ms)
        self.num_within_objective += latency_ms <= objective_ms
        for name, stage_ms in stages_ms.items():
            self.stages.setdefault(name, Histogram()).record(stage_ms)

    def add_failure(self, slot: int, status: str) -> None:
        self.failures[status] += 1
        self.slots[slot].num_failed += 1

    def merge(self, other: "Tally") -> None:
        for mine, others in zip(self.slots, other.slots, strict=True):
            mine.merge(others)
        self.num_sent += other.num_sent
        self.num_within_objective += other.num_within_objective
        self.last_send_s = max(self.last_send_s, other.last_send_s)
        self.last_answer_s = max(self.last_answer_s, other.last_answer_s)
        self.latency.merge(other.latency)
        self.send_lag.merge(other.send_lag)
        for name, histogram in other.stages.items():
            self.stages.setdefault(name, Histogram()).merge(histogram)
        self.batches.merge(other.batches)
        self.failures.update(other.failures)
