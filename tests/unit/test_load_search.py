"""The search for the highest rate, with servers of known capacity in place of measurements."""

import pytest

from perf.load.result import Goodput, Latency, LoadResult
from perf.load.search import MAX_DOUBLINGS, MAX_HALVINGS, RateSearch, meets_objective, search

LATENCY = Latency(1.0, 2.0, 3.0, 4.0, 5.0)


def make_result(rate: float, good_share: float, *, is_void: bool = False) -> LoadResult:
    return LoadResult(
        is_void=is_void,
        target_rate=rate,
        achieved_rate=rate,
        num_requests=100,
        num_answers=100,
        failures={},
        goodput=Goodput(objective_ms=50.0, share=good_share, rate=rate * good_share),
        latency=LATENCY,
        send_lag=LATENCY,
        stages={},
        batches=None,
        curve=[],
        moments=[],
    )


def find(capacity: float, first_rate: float, max_sent: float = float("inf")) -> RateSearch:
    """Search a server that answers in time up to `capacity`, by clients that send `max_sent`."""
    return search(
        lambda rate: make_result(rate, 1.0 if rate <= capacity else 0.5, is_void=rate > max_sent),
        first_rate,
    )


@pytest.mark.parametrize("first_rate", [1.0, 70.0, 100.0, 101.0, 800.0])
def test_search_closes_in_on_the_capacity_from_either_side(first_rate: float) -> None:
    found = find(100.0, first_rate)
    assert found.best_rate is not None
    assert 95 < found.best_rate <= 100
    assert not found.is_void
    best = found.best_result()
    assert best is not None
    assert best.target_rate == found.best_rate


def test_trials_stand_in_the_order_of_their_rates_and_say_what_they_met() -> None:
    trials = find(100.0, 40.0).trials
    rates = [trial.rate for trial in trials]
    assert rates == sorted(set(rates))
    assert {40.0, 80.0, 160.0} < set(rates)
    assert all(trial.is_met == (trial.rate <= 100) for trial in trials)
    assert {trial.verdict() for trial in trials} == {"met", "missed"}


def test_search_that_the_clients_limit_is_void() -> None:
    found = find(capacity=1000.0, first_rate=10.0, max_sent=100.0)
    assert found.best_rate is not None
    assert 95 < found.best_rate <= 100
    assert found.is_void
    assert found.trials[-1].verdict() == "void"


def test_void_trial_far_above_the_limit_does_not_make_the_search_void() -> None:
    assert not find(capacity=100.0, first_rate=90.0, max_sent=150.0).is_void


def test_server_that_meets_no_rate_has_no_best() -> None:
    found = find(capacity=0.0, first_rate=64.0)
    assert (found.best_rate, found.best_result(), found.is_void) == (None, None, False)
    assert len(found.trials) == MAX_HALVINGS + 1


def test_server_that_meets_every_rate_ends_the_search_at_the_highest_tried() -> None:
    found = find(capacity=float("inf"), first_rate=2.0)
    assert found.best_rate == 2.0 * 2**MAX_DOUBLINGS
    assert not found.is_void


@pytest.mark.parametrize(
    ("good_share", "is_void", "is_met"),
    [(0.99, False, True), (0.9899, False, False), (1.0, True, False)],
)
def test_objective_is_met_by_99_percent_of_all_requests(
    good_share: float, is_void: bool, is_met: bool
) -> None:
    assert meets_objective(make_result(10.0, good_share, is_void=is_void)) is is_met
