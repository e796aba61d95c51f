"""Intended send times: a Poisson process or a constant beat, with overloads."""

import math

import numpy as np
from numpy.typing import NDArray

from perf.errors import MeasureError
from perf.load.options import LoadOptions

NUM_DECIMALS = 9
"""Decimals of a send time in seconds: one at the end of the warm-up is not a bit before it."""


def make_send_times(options: LoadOptions, rng: np.random.Generator) -> NDArray[np.float64]:
    """Give the send times of warm-up and measured time, in seconds from the start, ascending.

    The arrivals are laid out on a clock that ticks once per expected request, and from there
    carried over to seconds; so overloads bend both kinds of arrivals alike.

    Raises:
        MeasureError: an overload is not within the measured time.
    """
    knots_s = _knots_s(options)
    widths_s = np.diff(knots_s)
    middles_s = knots_s[:-1] + widths_s / 2
    rates = np.array([_rate_at(options, middle_s) for middle_s in middles_s.tolist()])
    expected = np.concatenate([[0.0], np.cumsum(rates * widths_s)])
    if options.arrivals == "constant":
        ticks = np.arange(math.ceil(round(expected[-1], NUM_DECIMALS)), dtype=np.float64)
    else:
        ticks = np.sort(rng.uniform(0.0, expected[-1], rng.poisson(expected[-1])))
    return np.interp(ticks, expected, knots_s).round(NUM_DECIMALS)


def _knots_s(options: LoadOptions) -> NDArray[np.float64]:
    """Give the times at which the rate may change, from the start to the end."""
    end_s = options.warm_up_s + options.duration_s
    knots_s = {0.0, end_s}
    for overload in options.overloads:
        if overload.start_s + overload.duration_s > options.duration_s:
            raise MeasureError(
                f"the overload from second {overload.start_s:g} lasts {overload.duration_s:g} s,"
                f" beyond the {options.duration_s:g} s measured; raise --duration"
            )
        start_s = options.warm_up_s + overload.start_s
        knots_s |= {start_s, start_s + overload.duration_s}
    return np.array(sorted(knots_s))


def _rate_at(options: LoadOptions, time_s: float) -> float:
    since_warm_up_s = time_s - options.warm_up_s
    factors = [
        overload.factor
        for overload in options.overloads
        if 0 <= since_warm_up_s - overload.start_s < overload.duration_s
    ]
    return options.rate * math.prod(factors)
