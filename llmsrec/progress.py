"""The one look of all progress: bars on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
Counts = DownloadColumn | MofNCompleteColumn

LINE_EVERY_SECONDS = 10.0
SPEED_OVER_SECONDS = 300.0
FEW_STEPS = 20
"""A task of no more steps tells each of them: one may last, and say nothing meanwhile."""

_COUNTS = MofNCompleteColumn()


def progress_bars(counts: Counts = _COUNTS) -> Progress:
    """Tell on standard error what is done, in `counts`, how long it took and what remains."""
    console = Console(stderr=True)
    if not console.is_interactive:
        return ProgressLines(console, counts)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        counts,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def track(values: Sequence[T], description: str) -> Iterator[T]:
    """Give the values and tell how many are done with."""
    with progress_bars() as bars:
        yield from bars.track(values, description=description)


class ProgressLines(Progress):
    """Writes a line when a task starts and ends, and in between where the last is long ago."""

    def __init__(
        self,
        console: Console,
        counts: Counts = _COUNTS,
        get_time: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(
            console=console,
            disable=True,
            get_time=get_time,
            speed_estimate_period=SPEED_OVER_SECONDS,
        )
        self._counts = counts
        self._told: dict[TaskID, tuple[float, str]] = {}

    def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:  # noqa: ANN401
        task_id = super().add_task(description, *arguments, **options)
        self._tell(task_id)
        return task_id

    def update(self, task_id: TaskID, **changes: Any) -> None:  # noqa: ANN401
        super().update(task_id, **changes)
        self._tell_if_due(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell_if_due(task_id)

    def remove_task(self, task_id: TaskID) -> None:
        if not self._tasks[task_id].finished:
            self._tell(task_id, " when it ended")
        super().remove_task(task_id)

    def _tell_if_due(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        told_at, told = self._told[task_id]
        is_short = task.total is not None and task.total <= FEW_STEPS
        is_due = self.get_time() - told_at >= LINE_EVERY_SECONDS
        if (is_due or is_short or task.finished) and self._state(task) != told:
            self._tell(task_id)

    def _tell(self, task_id: TaskID, remark: str = "") -> None:
        task = self._tasks[task_id]
        self._told[task_id] = self.get_time(), self._state(task)
        if task.finished:
            remark = f" in {_clock(task.finished_time)}"
        elif not remark and task.time_remaining is not None:
            remark = f", {_clock(task.time_remaining)} to go"
        line = self._state(task) + remark
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _state(self, task: Task) -> str:
        return f"{task.description}: {self._counts.render(task).plain.strip()}"


def _clock(seconds: float | None) -> str:
    return str(timedelta(seconds=round(seconds or 0)))
