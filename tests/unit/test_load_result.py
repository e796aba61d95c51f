"""Histograms, tallies and what they come to: percentiles, goodput, the rule of void runs."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.load.batches import BatchTally
from perf.load.histogram import Histogram
from perf.load.plan import Plan
from perf.load.result import LoadResult, summarise
from perf.load.settings import Clients
from perf.load.tally import Slot, Tally, count_slots

PERCENTILES = [50.0, 90.0, 99.0, 99.9, 100.0]


def make_histogram(times_ms: list[float]) -> Histogram:
    histogram = Histogram()
    for time_ms in times_ms:
        histogram.record(time_ms)
    return histogram


def make_plan(num_requests: int, duration_s: float, warm_up_s: float = 0.0) -> Plan:
    times_s = np.arange(num_requests) * (duration_s + warm_up_s) / num_requests
    return Plan(times_s, np.zeros(num_requests, np.int64), [b""], warm_up_s, duration_s)


def make_result(num_sent: int, last_send_s: float) -> LoadResult:
    tally = Tally([Slot()])
    for _ in range(num_sent):
        tally.add_send(0.0, last_send_s)
    return summarise(make_plan(1000, 10.0), tally, Clients())


@given(st.lists(st.floats(0.001, 3_600_000), min_size=1, max_size=200), st.integers(1, 5))
def test_merged_histograms_are_the_histogram_of_all(times_ms: list[float], num_parts: int) -> None:
    whole, merged = make_histogram(times_ms), Histogram()
    for part in range(num_parts):
        merged.merge(pickle.loads(pickle.dumps(make_histogram(times_ms[part::num_parts]))))
    assert len(merged) == len(times_ms)
    assert merged.percentiles_ms(PERCENTILES) == whole.percentiles_ms(PERCENTILES)


@given(st.lists(st.floats(0.1, 100_000), min_size=1, max_size=300))
def test_percentiles_are_right_to_three_digits(times_ms: list[float]) -> None:
    expected = np.percentile(times_ms, PERCENTILES, method="inverted_cdf")
    found = make_histogram(times_ms).percentiles_ms(PERCENTILES)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("num_times", "rank"), [(369, 366), (100, 99), (1000, 990)])
def test_p99_is_no_shorter_than_99_percent_of_the_times(num_times: int, rank: int) -> None:
    histogram = make_histogram([float(number) for number in range(1, num_times + 1)])
    assert histogram.percentiles_ms([99.0])[0] == pytest.approx(rank, rel=1e-3)


def test_time_beyond_an_hour_still_counts() -> None:
    histogram = make_histogram([1.0, 1e9])
    assert histogram.percentiles_ms([100.0])[0] == pytest.approx(3_600_000, rel=1e-3)


@pytest.mark.parametrize(
    ("num_sent", "last_send_s", "is_void"),
    [(1000, 9.99, False), (1000, 10.05, False), (1000, 10.2, True), (989, 9.9, True)],
    ids=["on time", "slightly late", "fell behind", "did not send all"],
)
def test_run_that_sent_too_slowly_is_void(num_sent: int, last_send_s: float, is_void: bool) -> None:
    result = make_result(num_sent, last_send_s)
    assert result.target_rate == 100
    assert result.achieved_rate == pytest.approx(num_sent / max(last_send_s, 10))
    assert result.is_void is is_void


def make_tally(latencies_ms: list[float], failures: list[str]) -> Tally:
    tally = Tally([Slot(), Slot()])
    for latency_ms in latencies_ms:
        tally.add_send(0.5, 1.0)
        tally.add_answer(0, latency_ms, {"encode_ms": latency_ms / 2}, 20.0)
        tally.batches.add(1 + int(latency_ms / 10), 6, 8)
        tally.last_answer_s = max(tally.last_answer_s, latency_ms / 10)
    for status in failures:
        tally.add_send(0.5, 2.0)
        tally.add_failure(1, status)
    return tally


def test_result_counts_answers_failures_and_goodput() -> None:
    tally = make_tally([10.0, 20.0, 30.0], ["UNAVAILABLE", "INTERNAL", "UNAVAILABLE"])
    result = summarise(make_plan(6, 2.0), tally, Clients(objective_ms=20.0))
    assert (result.num_requests, result.num_answers) == (6, 3)
    assert result.failures == {"UNAVAILABLE": 2, "INTERNAL": 1}
    assert (result.goodput.share, result.goodput.rate) == (2 / 6, 1.0)
    assert result.latency is not None
    assert result.latency.p50_ms == pytest.approx(20, rel=1e-3)
    assert result.latency.max_ms == pytest.approx(30, rel=1e-3)
    assert result.send_lag.p99_ms == pytest.approx(0.5, rel=1e-2)
    assert result.stages["encode_ms"].max_ms == pytest.approx(15, rel=1e-3)
    starts = [(moment.start_s, moment.num_answers, moment.num_failed) for moment in result.moments]
    assert starts == [(0.0, 3, 0), (1.0, 0, 3)]
    assert [moment.latency is None for moment in result.moments] == [False, True]


def test_merged_tally_is_the_tally_of_all() -> None:
    merged = make_tally([10.0], ["INTERNAL"])
    merged.merge(pickle.loads(pickle.dumps(make_tally([20.0, 30.0], ["UNAVAILABLE"] * 2))))
    whole = make_tally([10.0, 20.0, 30.0], ["INTERNAL", "UNAVAILABLE", "UNAVAILABLE"])
    plan, clients = make_plan(6, 2.0), Clients()
    assert summarise(plan, merged, clients) == summarise(plan, whole, clients)


def test_micro_batch_counts_once_however_many_answers_it_gave() -> None:
    tally = BatchTally()
    for size, tokens, padded in [(1, 5, 5), (3, 10, 10), (3, 4, 10), (3, 6, 10), (2, 8, 8)]:
        tally.add(size, tokens, padded)
    batches = tally.summarise(duration_s=2.0)
    assert batches is not None
    assert [size.num_batches for size in batches.sizes] == [1.0, 0.5, 1.0]
    assert [size.padding_share for size in batches.sizes] == pytest.approx([0.0, 0.0, 1 / 3])
    assert batches.mean_prompts == pytest.approx(5 / 2.5)
    assert batches.padding_share == pytest.approx(1 - 33 / 43)
    assert batches.tokens_per_s == 33 / 2


def test_tokens_of_late_answers_are_not_counted_as_served_in_time() -> None:
    tally = make_tally([10.0, 20.0, 40.0], [])
    result = summarise(make_plan(3, 2.0), tally, Clients())
    assert result.batches is not None
    assert result.batches.tokens_per_s == 18 / 4.0


def test_run_without_an_answer_has_no_latency() -> None:
    result = summarise(make_plan(1, 2.0), make_tally([], ["INTERNAL"]), Clients())
    assert (result.latency, result.curve, result.goodput.share) == (None, [], 0)
    assert result.batches is None


def test_curve_rises_to_the_resolution_of_its_answers() -> None:
    latencies_ms = [float(number) for number in range(1, 1001)]
    result = summarise(make_plan(1000, 2.0), make_tally(latencies_ms, []), Clients())
    percentiles, curve_ms = zip(*result.curve, strict=True)
    assert percentiles[0] == 0
    assert percentiles[-1] == pytest.approx(99.9)
    assert list(curve_ms) == sorted(curve_ms)
    for percentile, latency_ms in result.curve[1:]:
        assert latency_ms == pytest.approx(percentile * 10, rel=2e-3, abs=1.5)


@pytest.mark.parametrize(("num_requests", "num_slots"), [(5, 1), (100, 10), (9999, 60)])
def test_slots_are_not_nearly_empty(num_requests: int, num_slots: int) -> None:
    assert count_slots(make_plan(num_requests, 10.0)) == num_slots
