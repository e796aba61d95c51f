"""Measures services: their answers first, then one client's latency, then several at once."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
from rich.progress import Progress

from engine import Interaction
from perf.compare.forwards import WARM_UP_ROUNDS
from perf.compare.peer_inputs import Vectors
from perf.compare.result import BARS, ServiceRow, summarise
from perf.compare.services import K, Service
from perf.errors import MeasureError, WrongAnswer
from perf.timing import PAUSE_S

NUM_CLIENTS = 4
ANSWERS_PER_CLIENT = 4
NUM_PASSES = 3
TIE_TOLERANCE = 1e-5
"""Scores closer than this share of the largest one are equal in fp32."""


@dataclass(frozen=True)
class Expected:
    """What PyTorch in fp32 scores."""

    histories: Sequence[Sequence[Interaction]]
    scores: Vectors  # [P, N]
    row_of_id: Mapping[str, int]

    def share_right(self, number: int, answer: Sequence[str]) -> float:
        """Give the share of an answer that is among the first K unseen items of a history."""
        scores = self.scores[number].copy()
        tolerance = TIE_TOLERANCE * np.abs(scores).max()
        scores[[self.row_of_id[each.item_id] for each in self.histories[number]]] = -np.inf
        threshold = np.partition(scores, -K)[-K] - tolerance
        rows = {self.row_of_id[item_id] for item_id in answer}
        return sum(bool(scores[row] >= threshold) for row in rows) / K


def measure(
    services: Sequence[Service], expected: Expected, num_rounds: int, bars: Progress
) -> list[ServiceRow]:
    """Compare, then time; a service that fails says so in its row.

    Raises:
        WrongAnswer: ours answered otherwise while it was timed.
    """
    runs = [_Run(service, expected) for service in services]
    steps = [
        ("answers", len(expected.histories), _Run.compare_one),
        ("one client", WARM_UP_ROUNDS + num_rounds, _Run.time_one),
        (f"{NUM_CLIENTS} clients", NUM_PASSES, _Run.time_several),
    ]
    for name, num_turns, step in steps:
        task = bars.add_task(f"services: {name}", total=num_turns * len(runs))
        for number in range(num_turns):
            for each in runs:
                each.attempt(partial(step, each, number))
                bars.advance(task)
    return [each.finish() for each in runs]


class _Run:
    """One service, and what is known of it so far."""

    def __init__(self, service: Service, expected: Expected) -> None:
        self._expected = expected
        self._bar = BARS[service.precision].min_overlap
        self._clients = [service.connect() for _ in range(NUM_CLIENTS)]
        self._times_ms: list[float] = []
        self._rates: list[float] = []
        self._shares: list[float] = []
        self._timed_shares: list[float] = []
        versions = {name: version(name) for name in service.packages}
        self._row = ServiceRow(name=service.name, is_ours=service.is_ours, versions=versions)

    def attempt(self, step: Callable[[], None]) -> None:
        if self._row.problem:
            return
        time.sleep(PAUSE_S)
        try:
            step()
        except MeasureError as error:
            self._row.problem = f"failed: {error}"

    def compare_one(self, number: int) -> None:
        answer = self._clients[0](self._expected.histories[number])
        self._shares.append(self._expected.share_right(number, answer))

    def time_one(self, number: int) -> None:
        at = number % len(self._expected.histories)
        started = time.perf_counter()
        answer = self._clients[0](self._expected.histories[at])
        self._times_ms.append((time.perf_counter() - started) * 1e3)
        self._timed_shares.append(self._expected.share_right(at, answer))

    def time_several(self, _number: int) -> None:
        """Let every client ask as soon as it is answered."""
        histories = self._expected.histories

        def ask_in_turn(client: int) -> list[tuple[int, list[str]]]:
            first = client * ANSWERS_PER_CLIENT
            places = [(first + index) % len(histories) for index in range(ANSWERS_PER_CLIENT)]
            return [(at, self._clients[client](histories[at])) for at in places]

        started = time.perf_counter()
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            answers = list(pool.map(ask_in_turn, range(NUM_CLIENTS)))
        elapsed_s = time.perf_counter() - started
        self._rates.append(NUM_CLIENTS * ANSWERS_PER_CLIENT / elapsed_s)
        self._timed_shares += [self._expected.share_right(*each) for one in answers for each in one]

    def finish(self) -> ServiceRow:
        row = self._row
        if row.problem:
            return row
        row.answers_overlap = statistics.fmean(self._shares)
        row.is_equal = row.answers_overlap >= self._bar
        timed = statistics.fmean(self._timed_shares)
        if row.is_equal and timed < self._bar:
            problem = f"gave other answers while it was timed (overlap@{K} {timed:.3f})"
            if row.is_ours:
                raise WrongAnswer(f"{row.name} {problem}; no time counts")
            row.problem = f"failed: it {problem}"
            return row
        row.times = summarise(self._times_ms[WARM_UP_ROUNDS:])
        row.answers_per_s = statistics.median(self._rates)
        return row
