"""Measures forwards: loads every contender, compares its vectors, then times all in turn."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from perf.compare.contenders import Contender
from perf.compare.errors import CompareError
from perf.compare.kit import Kit, Vectors
from perf.compare.result import Row, judge, summarise
from perf.compare.task import Absent, Task
from perf.compare.worker_process import PeerFailed, WorkerProcess

WARM_UP_ROUNDS = 2
PAUSE_S = 0.05
"""Between two turns, for the machine to come to rest."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all."""

    kit: Kit
    checkpoint: Path
    item_vectors: Vectors  # [N, D]
    num_users: int
    num_rounds: int
    num_threads: int


def measure(contenders: Sequence[Contender], setting: Setting, bars: Progress) -> Vectors:
    """Fill in every contender's row, and give the vectors of the first, which are right.

    Raises:
        CompareError: the first fails, or a bundle is not of the checkpoint.
    """
    with ExitStack() as processes:
        running: list[tuple[Row, WorkerProcess]] = []
        expected = None
        task = bars.add_task("", total=len(contenders))
        for contender in contenders:
            row = contender.row
            bars.update(task, description=f"{row.name}: loading and comparing")
            worker = _start(contender, setting, processes)
            vectors = _encode_all(worker, contender, setting)
            if expected is None:
                expected = vectors
            if expected is None:
                raise CompareError(f"{row.name}, which gives the right vectors: {row.problem}")
            if vectors is not None:
                row.quality = judge(vectors, expected, setting.item_vectors, row.precision)
                _require_own_equal(row)
                running.append((row, worker))
            bars.advance(task)
        _time_in_turn(running, setting, bars)
    assert expected is not None
    return expected


def _start(contender: Contender, setting: Setting, processes: ExitStack) -> WorkerProcess:
    log = setting.kit.folder / f"{contender.row.name}.log".replace("/", "-")
    worker = WorkerProcess(contender.python, log, setting.num_threads)
    processes.callback(worker.close)
    return worker


def _encode_all(worker: WorkerProcess, contender: Contender, setting: Setting) -> Vectors | None:
    """Give the vectors `[P, D]` of all prompts; nothing, but a reason in the row, if it cannot."""
    peer, row = contender.peer, contender.row
    task = Task(
        module=peer.module,
        packages=list(peer.packages),
        precision=peer.precision,
        kit_folder=str(setting.kit.folder),
        checkpoint=str(setting.checkpoint),
        bundle=str(contender.bundle),
        num_threads=setting.num_threads,
    )
    numbers = range(len(setting.kit.prompts))
    size = setting.num_users
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


def _require_own_equal(row: Row) -> None:
    if row.is_ours and row.quality and not row.quality.is_equal:
        raise CompareError(
            f"{row.name} is not equal to the checkpoint (cosine {row.quality.cosine_min:.6f},"
            f" overlap@10 {row.quality.overlap_at_10:.3f}); name what it was built from"
        )


def _time_in_turn(
    running: Sequence[tuple[Row, WorkerProcess]], setting: Setting, bars: Progress
) -> None:
    num_rounds = WARM_UP_ROUNDS + setting.num_rounds
    task = bars.add_task("timing all in turn", total=num_rounds * len(running))
    times: list[list[float]] = [[] for _ in running]
    for number in range(num_rounds):
        start = number * setting.num_users
        batch = [(start + each) % len(setting.kit.prompts) for each in range(setting.num_users)]
        for (row, worker), values in zip(running, times, strict=True):
            if row.problem:
                continue
            time.sleep(PAUSE_S)
            try:
                values.append(worker.encode(batch)[1])
            except PeerFailed as error:
                row.problem = f"failed: {error}"
            bars.advance(task)
    for (row, _), values in zip(running, times, strict=True):
        if not row.problem:
            row.times = summarise(values[WARM_UP_ROUNDS:])
