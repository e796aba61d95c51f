"""Runs a schedule: starts the clients together, shows their progress, collects what they sent."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait

from llmsrec.progress import progress_bars
from perf.errors import MeasureError
from perf.load.client import ClientTask, SentRequest, run_client
from perf.load.options import LoadOptions
from perf.load.schedule import Schedule

HEAD_START_S = 0.2
"""Between the word to start and the start, so that the word is with every client by then."""


def measure(address: str, schedule: Schedule, options: LoadOptions) -> list[SentRequest]:
    """Send every request of a schedule at its time; give those that are measured, in order.

    Raises:
        MeasureError: a client process did not reach the server, or died.
    """
    sent: list[SentRequest] = []
    tasks = [
        ClientTask(address, part, options.deadline_ms)
        for part in schedule.split(options.num_processes)
    ]
    rate = schedule.num_measured() / schedule.duration_s
    with _running(tasks) as connections, progress_bars() as bars:
        bar = bars.add_task(f"{rate:.4g} requests/s", total=len(schedule))
        for connection in connections:
            _receive(connection)  # it is ready
        start_s = time.monotonic() + HEAD_START_S
        for connection in connections:
            connection.send(start_s)
        num_done = dict.fromkeys(connections, 0)
        measuring = set(connections)
        while measuring:
            for connection in measuring.intersection(wait(measuring)):
                report = _receive(connection)
                if isinstance(report, int):
                    num_done[connection] = report
                else:
                    sent += report
                    measuring.remove(connection)
            bars.update(bar, completed=sum(num_done.values()))
        bars.update(bar, completed=len(schedule))
    return sorted(sent)


@contextmanager
def _running(tasks: Sequence[ClientTask]) -> Iterator[list[Connection]]:
    """Run one process for each task; those that still run afterwards are ended."""
    spawning = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        connections = []
        for task in tasks:
            mine, theirs = spawning.Pipe()
            connections.append(stack.enter_context(mine))
            process = spawning.Process(target=run_client, args=(task, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the file
            stack.callback(process.join)
            stack.callback(process.terminate)
        yield connections


def _receive(connection: Connection) -> int | list[SentRequest]:
    try:
        report: int | list[SentRequest] = connection.recv()
    except EOFError as error:
        raise MeasureError("a client process died; its message is above") from error
    return report
