"""Times calls and checks the very answers that they gave, once the clock stands."""

import time
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from llmsrec.progress import track

T = TypeVar("T")

PAUSE_S = 0.2
"""Before each turn, so that none pays for threads that another left spinning."""
NUM_TRIES = 7
"""Calls of which the shortest counts, where a machine's best is asked for."""


class Timed(NamedTuple, Generic[T]):
    """What to time, and what to hold its answers to; `check` raises WrongAnswer."""

    call: Callable[[], T]
    check: Callable[[T], None]

    def time_ms(self) -> float:
        started = time.perf_counter()
        answer = self.call()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        self.check(answer)
        return elapsed_ms


def time_calls(timed: Timed[T], num_calls: int, num_warm_ups: int = 1) -> list[float]:
    """Give the milliseconds of calls right after each other; the first ones do not count."""
    return [timed.time_ms() for _ in range(num_warm_ups + num_calls)][num_warm_ups:]


def best_ms(timed: Timed[T]) -> float:
    return min(time_calls(timed, NUM_TRIES))


def time_in_turn(
    contenders: Mapping[str, Timed[T]], num_rounds: int, num_warm_ups: int
) -> dict[str, list[float]]:
    """Give the milliseconds of each contender's calls, a round after the other."""
    times_ms: dict[str, list[float]] = {name: [] for name in contenders}
    rounds = range(num_warm_ups + num_rounds)
    for _ in track(rounds, "rounds"):
        for name, timed in contenders.items():
            time.sleep(PAUSE_S)
            times_ms[name].append(timed.time_ms())
    return {name: times[num_warm_ups:] for name, times in times_ms.items()}
