"""What the requests of a run come to: percentiles, goodput, batches, the rule of void runs."""

from dataclasses import dataclass

import numpy as np
import pytest

from llmsrec.v1 import recommender_pb2 as pb
from perf.load.batches import summarise_batches
from perf.load.client import SentRequest
from perf.load.options import LoadOptions
from perf.load.result import LoadResult, summarise
from perf.load.schedule import Schedule


def make_schedule(num_requests: int, duration_s: float) -> Schedule:
    times_s = np.arange(num_requests) * duration_s / num_requests
    return Schedule(times_s, np.zeros(num_requests, np.int64), [b""], 0.0, duration_s)


def make_reply(num_prompts: int = 1, tokens: int = 6, longest: int = 8) -> pb.RecommendResponse:
    return pb.RecommendResponse(
        num_prompt_tokens=tokens,
        micro_batch=pb.MicroBatch(num_prompts=num_prompts, longest_prompt_tokens=longest),
        timings=pb.StageTimings(encode_ms=tokens),
    )


@dataclass
class Sent:
    """Makes the requests of a run, `lag_ms` late each."""

    lag_ms: float = 0.5

    def answered(self, latency_ms: float, intended_s: float = 0.0) -> SentRequest:
        reply = make_reply().SerializeToString()
        return SentRequest(intended_s, self.lag_ms, latency_ms, "", b"", reply)

    def failed(self, status: str, intended_s: float = 1.0) -> SentRequest:
        return SentRequest(intended_s, self.lag_ms, 5.0, status, b"", b"")


def summarise_latencies(latencies_ms: list[float]) -> LoadResult:
    sent = [Sent().answered(latency_ms) for latency_ms in latencies_ms]
    return summarise(make_schedule(len(sent), 2.0), sent, LoadOptions())


@pytest.mark.parametrize(("num_times", "rank"), [(369, 366), (100, 99), (1000, 990)])
def test_p99_is_no_shorter_than_99_percent_of_the_times(num_times: int, rank: int) -> None:
    result = summarise_latencies([float(number) for number in range(1, num_times + 1)])
    assert result.latency is not None
    assert result.latency.p99_ms == rank
    assert result.latency.max_ms == num_times


@pytest.mark.parametrize(
    ("num_sent", "last_send_s", "is_void"),
    [(1000, 9.99, False), (1000, 10.05, False), (1000, 10.2, True), (989, 9.9, True)],
    ids=["on time", "slightly late", "fell behind", "did not send all"],
)
def test_run_that_sent_too_slowly_is_void(num_sent: int, last_send_s: float, is_void: bool) -> None:
    sent = [Sent(lag_ms=last_send_s * 1e3).answered(1.0)] * num_sent
    result = summarise(make_schedule(1000, 10.0), sent, LoadOptions())
    assert result.target_rate == 100
    assert result.achieved_rate == pytest.approx(num_sent / max(last_send_s, 10))
    assert result.is_void is is_void


def test_result_counts_answers_failures_and_goodput() -> None:
    sent = [Sent().answered(latency_ms) for latency_ms in (10.0, 20.0, 30.0)]
    sent += [Sent().failed(status) for status in ("UNAVAILABLE", "INTERNAL", "UNAVAILABLE")]
    result = summarise(make_schedule(6, 2.0), sent, LoadOptions(objective_ms=20.0))
    assert (result.num_requests, result.num_answers) == (6, 3)
    assert result.failures == {"UNAVAILABLE": 2, "INTERNAL": 1}
    assert (result.goodput.share, result.goodput.rate) == (2 / 6, 1.0)
    assert result.latency is not None
    assert (result.latency.p50_ms, result.latency.max_ms) == (20, 30)
    assert result.send_lag is not None
    assert result.send_lag.p99_ms == 0.5
    assert result.stages["encode_ms"].max_ms == 6


def test_moments_hold_the_requests_that_were_meant_for_them() -> None:
    sent = [Sent().answered(1.0, number / 10) for number in range(10)]
    sent += [Sent().failed("INTERNAL", 1 + number / 10) for number in range(10)]
    moments = summarise(make_schedule(20, 2.0), sent, LoadOptions()).moments
    counts = [(each.start_s, each.num_answers, each.num_failed) for each in moments]
    assert counts == [(0.0, 10, 0), (1.0, 0, 10)]
    assert [moment.latency is None for moment in moments] == [False, True]


@pytest.mark.parametrize(("num_requests", "num_moments"), [(5, 1), (100, 10), (999, 60)])
def test_moments_are_not_nearly_empty(num_requests: int, num_moments: int) -> None:
    assert len(summarise_latencies([1.0] * num_requests).moments) == num_moments


def test_micro_batch_counts_once_however_many_answers_it_gave() -> None:
    rows = [(1, 5, 5), (3, 10, 10), (3, 4, 10), (3, 6, 10), (2, 8, 8)]
    batches = summarise_batches([make_reply(*row) for row in rows], duration_s=2.0)
    assert batches is not None
    assert [size.num_batches for size in batches.sizes] == [1.0, 0.5, 1.0]
    assert [size.padding_share for size in batches.sizes] == pytest.approx([0.0, 0.0, 1 / 3])
    assert batches.mean_prompts == pytest.approx(5 / 2.5)
    assert batches.padding_share == pytest.approx(1 - 33 / 43)
    assert batches.tokens_per_s == 33 / 2


def test_tokens_of_late_answers_are_not_counted_as_served_in_time() -> None:
    result = summarise_latencies([1000.0, 2000.0, 4000.0])
    assert result.batches is not None
    assert result.batches.tokens_per_s == 18 / 4.0


def test_run_without_an_answer_has_no_latency() -> None:
    result = summarise(make_schedule(1, 2.0), [Sent().failed("INTERNAL")], LoadOptions())
    assert (result.latency, result.curve, result.goodput.share) == (None, [], 0)
    assert (result.batches, result.stages) == (None, {})


def test_curve_rises_to_the_resolution_of_its_answers() -> None:
    result = summarise_latencies([float(number) for number in range(1, 1001)])
    percentiles, curve_ms = zip(*result.curve, strict=True)
    assert percentiles[0] == 0
    assert percentiles[-1] == pytest.approx(99.9)
    assert list(curve_ms) == sorted(curve_ms)
    for percentile, latency_ms in result.curve[1:]:
        assert latency_ms == pytest.approx(percentile * 10, abs=1.5)
