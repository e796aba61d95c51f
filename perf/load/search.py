"""Finds the highest rate at which the latency objective is met at the 99th percentile."""

from collections.abc import Callable

import msgspec

from perf.load.result import LoadResult

PERCENTILE = 99
PRECISION = 1.05
"""How far apart the highest rate that met the objective and the lowest that did not may stay."""
MIN_REQUESTS = 100
"""A trial lasts as long as it takes to send so many; fewer have no 99th percentile."""
MAX_DOUBLINGS, MAX_HALVINGS = 20, 6
"""How far from the first rate the limit is looked for."""


class Trial(msgspec.Struct, frozen=True):
    rate: float
    is_met: bool
    result: LoadResult

    def verdict(self) -> str:
        if self.result.is_void:
            return "void"
        return "met" if self.is_met else "missed"


class RateSearch(msgspec.Struct, frozen=True, kw_only=True):
    best_rate: float | None
    """None where no rate met the objective."""
    is_void: bool
    """Whether the clients, not the server, set the limit: the trial above the best was void."""
    trials: list[Trial]
    """In the order of the rates."""

    def best_result(self) -> LoadResult | None:
        results = {trial.rate: trial.result for trial in self.trials}
        return None if self.best_rate is None else results[self.best_rate]


def search(measure: Callable[[float], LoadResult], first_rate: float) -> RateSearch:
    """Double or halve the first rate until the limit is between two rates, then close in on it."""
    trials: dict[float, Trial] = {}

    def is_met(rate: float) -> bool:
        result = measure(rate)
        trials[rate] = Trial(rate, meets_objective(result), result)
        return trials[rate].is_met

    low, high = _bracket(is_met, first_rate)
    while low is not None and high is not None and high > low * PRECISION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return RateSearch(
        best_rate=low,
        is_void=high is not None and trials[high].result.is_void,
        trials=[trials[rate] for rate in sorted(trials)],
    )


def meets_objective(result: LoadResult) -> bool:
    """Count a request that brought no answer as one that took too long."""
    return not result.is_void and result.goodput.share * 100 >= PERCENTILE


def _bracket(
    is_met: Callable[[float], bool], first_rate: float
) -> tuple[float | None, float | None]:
    """Give a rate that met the objective and one, twice as high, that did not, as far as found."""
    rate = first_rate
    if is_met(rate):
        for _ in range(MAX_DOUBLINGS):
            if not is_met(rate * 2):
                return rate, rate * 2
            rate *= 2
        return rate, None
    for _ in range(MAX_HALVINGS):
        rate /= 2
        if is_met(rate):
            return rate, rate * 2
    return None, rate
