"""Measures forwards: loads every contender, compares its vectors, then times all in turn."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import Progress

from perf.compare.contenders import Contender
from perf.compare.messages import Absent, PeerTask
from perf.compare.peer_inputs import PeerInputs, Vectors
from perf.compare.result import Quality, Row, judge, summarise
from perf.compare.worker_process import WorkerProcess
from perf.errors import MeasureError, PeerFailed, WrongAnswer
from perf.timing import PAUSE_S

WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class Conditions:
    """What is the same for all."""

    inputs: PeerInputs
    checkpoint: Path
    item_vectors: Vectors  # [N, D]
    num_users: int
    num_rounds: int
    num_threads: int

    def batch(self, number: int) -> list[int]:
        """Give the prompts of a round."""
        start = number * self.num_users
        return [(start + each) % len(self.inputs.prompts) for each in range(self.num_users)]


@dataclass
class _Running:
    row: Row
    worker: WorkerProcess
    times_ms: list[float] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    """What the timed forwards gave."""


def measure(contenders: Sequence[Contender], conditions: Conditions, bars: Progress) -> Vectors:
    """Fill in every contender's row, and give the vectors of the first, which are right.

    Raises:
        MeasureError: the first fails, or a bundle is not of the checkpoint.
        WrongAnswer: ours gave other vectors while they were timed.
    """
    with ExitStack() as processes:
        running = []
        expected = None
        task = bars.add_task("", total=len(contenders))
        for contender in contenders:
            row = contender.row
            bars.update(task, description=f"{row.name}: loading and comparing")
            worker = _start(contender, conditions, processes)
            vectors = _encode_all(worker, contender, conditions)
            if expected is None:
                expected = vectors
            if expected is None:
                raise MeasureError(f"{row.name}, which gives the right vectors: {row.problem}")
            if vectors is not None:
                row.quality = judge(vectors, expected, conditions.item_vectors, row.precision)
                if row.is_ours and not row.quality.is_equal:
                    raise MeasureError(
                        f"{row.name} is not equal to the checkpoint ({_describe(row.quality)});"
                        " name what it was built from"
                    )
                running.append(_Running(row, worker))
            bars.advance(task)
        _time_in_turn(running, conditions, bars)
    assert expected is not None
    for each in running:
        _finish(each, expected, conditions)
    return expected


def _start(contender: Contender, conditions: Conditions, processes: ExitStack) -> WorkerProcess:
    log = conditions.inputs.folder / f"{contender.row.name}.log".replace("/", "-")
    worker = WorkerProcess(contender.python, log, conditions.num_threads)
    processes.callback(worker.close)
    return worker


def _encode_all(
    worker: WorkerProcess, contender: Contender, conditions: Conditions
) -> Vectors | None:
    """Give the vectors `[P, D]` of all prompts; nothing, but a reason in the row, if it cannot."""
    peer, row = contender.peer, contender.row
    task = PeerTask(
        module=peer.module,
        packages=list(peer.packages),
        precision=peer.precision,
        inputs_folder=str(conditions.inputs.folder),
        checkpoint=str(conditions.checkpoint),
        bundle=str(contender.bundle),
        num_threads=conditions.num_threads,
    )
    numbers = range(len(conditions.inputs.prompts))
    size = conditions.num_users
    try:
        answer = worker.load(task)
        if isinstance(answer, Absent):
            row.problem = f"absent, there is no module {answer.package}; to add it: {peer.install}"
            return None
        row.versions = answer.versions
        batches = [numbers[start : start + size] for start in numbers[::size]]
        return np.concatenate([worker.encode(batch)[0] for batch in batches])  # [P, D]
    except PeerFailed as error:
        row.problem = f"failed: {error}"
        return None


def _time_in_turn(running: Sequence[_Running], conditions: Conditions, bars: Progress) -> None:
    num_rounds = WARM_UP_ROUNDS + conditions.num_rounds
    task = bars.add_task("timing all in turn", total=num_rounds * len(running))
    for number in range(num_rounds):
        for each in running:
            bars.advance(task)
            if each.row.problem:
                continue
            time.sleep(PAUSE_S)
            try:
                vectors, time_ms = each.worker.encode(conditions.batch(number))
            except PeerFailed as error:
                each.row.problem = f"failed: {error}"
                continue
            each.times_ms.append(time_ms)
            each.vectors.append(vectors)


def _finish(each: _Running, expected: Vectors, conditions: Conditions) -> None:
    """Take the times, if the vectors were as good as before while they were timed."""
    row = each.row
    if row.problem or row.quality is None:
        return
    prompts = [place for number in range(len(each.vectors)) for place in conditions.batch(number)]
    timed = np.concatenate(each.vectors)
    quality = judge(timed, expected[prompts], conditions.item_vectors, row.precision)
    if row.quality.is_equal and not quality.is_equal:
        problem = f"gave other vectors while it was timed ({_describe(quality)})"
        if row.is_ours:
            raise WrongAnswer(f"{row.name} {problem}; no time counts")
        row.problem = f"failed: it {problem}"
        return
    row.times = summarise(each.times_ms[WARM_UP_ROUNDS:])


def _describe(quality: Quality) -> str:
    return f"cosine {quality.cosine_min:.6f}, overlap@10 {quality.overlap_at_10:.3f}"
