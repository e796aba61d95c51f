"""Runs a plan: starts the client processes together, shows their progress, merges their tallies."""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait

from llmsrec.progress import progress_bars
from perf.load.client import Task, run_client
from perf.load.errors import LoadError
from perf.load.plan import Plan
from perf.load.settings import Clients
from perf.load.tally import Slot, Tally, count_slots

HEAD_START_S = 0.2
"""Between the word to start and the start, so that the word is with every client by then."""


def measure(address: str, plan: Plan, clients: Clients, title: str) -> Tally:
    """Send every request of a plan at its time and count what came back.

    Raises:
        LoadError: a client process did not reach the server, or died.
    """
    merged = Tally([Slot() for _ in range(count_slots(plan))])
    tasks = [
        Task(address, part, clients, len(merged.slots))
        for part in plan.split(clients.num_processes)
    ]
    with _running(tasks) as connections, progress_bars() as bars:
        bar = bars.add_task(title, total=len(plan))
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
                    merged.merge(report)
                    measuring.remove(connection)
            bars.update(bar, completed=sum(num_done.values()))
        bars.update(bar, completed=len(plan))
    return merged


@contextmanager
def _running(tasks: Sequence[Task]) -> Iterator[list[Connection]]:
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


def _receive(connection: Connection) -> int | Tally:
    try:
        report: int | Tally = connection.recv()
    except EOFError as error:
        raise LoadError("a client process died; its message is above") from error
    return report
