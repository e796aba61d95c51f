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
from perf.compare.errors import CompareError
from perf.compare.kit import Vectors
from perf.compare.result import BARS, ServiceRow, summarise
from perf.compare.services import Ask, K, Service, time_answer

NUM_CLIENTS = 4
ANSWERS_PER_CLIENT = 4
NUM_PASSES = 3
WARM_UP_ROUNDS = 2
PAUSE_S = 0.2
"""Before each timing, so that none pays for threads that another left spinning."""
TIE_TOLERANCE = 1e-5
"""Scores closer than this share of the largest one are equal in fp32."""

History = Sequence[Interaction]


@dataclass(frozen=True)
class Expected:
    """What PyTorch in fp32 scores."""

    histories: Sequence[History]
    scores: Vectors  # [P, N]
    row_of_id: Mapping[str, int]


def measure(
    services: Sequence[Service], expected: Expected, num_rounds: int, bars: Progress
) -> list[ServiceRow]:
    """Compare, then time; a service that fails says so in its row."""
    runs = [_Run(service, expected) for service in services]
    steps = [
        ("answers", 1, _Run.compare_answers),
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
        versions = {name: version(name) for name in service.packages}
        self._row = ServiceRow(name=service.name, is_ours=service.is_ours, versions=versions)

    def attempt(self, step: Callable[[], None]) -> None:
        if self._row.problem:
            return
        time.sleep(PAUSE_S)
        try:
            step()
        except CompareError as error:
            self._row.problem = f"failed: {error}"

    def compare_answers(self, _number: int) -> None:
        self._row.answers_overlap = _overlap(self._clients[0], self._expected)
        self._row.is_equal = self._row.answers_overlap >= self._bar

    def time_one(self, number: int) -> None:
        histories = self._expected.histories
        self._times_ms.append(time_answer(self._clients[0], histories[number % len(histories)]))

    def time_several(self, _number: int) -> None:
        self._rates.append(_answers_per_s(self._clients, self._expected.histories))

    def finish(self) -> ServiceRow:
        if not self._row.problem:
            self._row.times = summarise(self._times_ms[WARM_UP_ROUNDS:])
            self._row.answers_per_s = statistics.median(self._rates)
        return self._row


def _overlap(ask: Ask, expected: Expected) -> float:
    """Give the mean share of answers that belong to PyTorch's first K among the unseen items."""
    shares = []
    for history, all_scores in zip(expected.histories, expected.scores, strict=True):
        scores = all_scores.copy()
        scores[[expected.row_of_id[each.item_id] for each in history]] = -np.inf
        threshold = np.partition(scores, -K)[-K] - TIE_TOLERANCE * np.abs(all_scores).max()
        answered = {expected.row_of_id[item_id] for item_id in ask(history)}
        shares.append(sum(scores[row] >= threshold for row in answered) / K)
    return float(np.mean(shares))


def _answers_per_s(clients: Sequence[Ask], histories: Sequence[History]) -> float:
    """Let every client ask as soon as it is answered."""

    def ask_in_turn(number: int) -> None:
        for index in range(ANSWERS_PER_CLIENT):
            at = (number * ANSWERS_PER_CLIENT + index) % len(histories)
            clients[number](histories[at])

    started = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(ask_in_turn, range(len(clients))))
    return len(clients) * ANSWERS_PER_CLIENT / (time.perf_counter() - started)
