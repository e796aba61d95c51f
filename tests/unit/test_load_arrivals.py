"""Intended send times: rate, spacing, overloads, and that a seed fixes them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perf.errors import MeasureError
from perf.load.arrivals import make_send_times
from perf.load.options import Arrivals, LoadOptions, Overload


def make_times(
    rate: float,
    arrivals: Arrivals,
    *,
    duration_s: float = 10.0,
    warm_up_s: float = 0.0,
    overloads: tuple[Overload, ...] = (),
    seed: int = 0,
) -> NDArray[np.float64]:
    options = LoadOptions(
        rate=rate,
        arrivals=arrivals,
        warm_up_s=warm_up_s,
        duration_s=duration_s,
        overloads=overloads,
    )
    return make_send_times(options, np.random.default_rng(seed))


def test_constant_arrivals_are_evenly_spaced_from_the_start() -> None:
    times_s = make_times(4, "constant", warm_up_s=1.0, duration_s=2.0)
    assert times_s == pytest.approx(np.arange(12) / 4)


def test_measured_time_holds_all_of_its_beats() -> None:
    times_s = make_times(10, "constant", warm_up_s=0.2, duration_s=1.0)
    assert np.count_nonzero(times_s >= 0.2) == 10


def test_poisson_arrivals_have_the_gaps_of_their_rate() -> None:
    times_s = make_times(50, "poisson", duration_s=400)
    gaps_s = np.diff(times_s)
    assert len(times_s) == pytest.approx(20_000, abs=4 * 20_000**0.5)
    assert gaps_s.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps_s.std() == pytest.approx(1 / 50, rel=0.05)  # as great as the mean: memoryless
    assert (gaps_s >= 0).all()
    assert 0 <= times_s[0] < times_s[-1] < 400


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_seed_fixes_the_schedule(arrivals: Arrivals) -> None:
    first, again = (make_times(20, arrivals, seed=3) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_seeds_differ() -> None:
    first, second = (make_times(20, "poisson", seed=seed) for seed in (1, 2))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_overload_multiplies_the_rate_in_its_part_of_the_measured_time(arrivals: Arrivals) -> None:
    overload = Overload(start_s=4.0, duration_s=2.0, factor=5.0)
    times_s = make_times(100, arrivals, warm_up_s=1.0, overloads=(overload,))
    counts, _ = np.histogram(times_s, [0.0, 5.0, 7.0, 11.0])
    for count, expected in zip(counts.tolist(), [500, 1000, 400], strict=True):
        assert count == pytest.approx(expected, abs=1 if arrivals == "constant" else 130)


def test_overlapping_overloads_multiply() -> None:
    overloads = (Overload(0.0, 10.0, 2.0), Overload(5.0, 5.0, 3.0))
    counts, _ = np.histogram(make_times(10, "constant", overloads=overloads), [0.0, 5.0, 10.0])
    assert counts.tolist() == [100, 300]


def test_overload_beyond_the_end_is_refused() -> None:
    with pytest.raises(MeasureError, match=r"from second 8 lasts 3 s, beyond the 10 s.*--duration"):
        make_times(1, "constant", overloads=(Overload(8.0, 3.0, 2.0),))
