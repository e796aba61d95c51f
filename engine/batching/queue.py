"""The queries that wait, in the order of arrival, and how the next micro-batch is taken of them."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.batching.run import Outcome, Runner
from engine.errors import DeadlineExpired, EncodingFailed
from engine.query import Query
from engine.sizes import Size


def _make_future() -> "asyncio.Future[Outcome]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Entry:
    """A query, the runner that it was rendered for, and the caller who waits for its reply."""

    runner: Runner
    query: Query
    deadline: float | None
    """The end of the caller's patience, in seconds of `time.monotonic`."""
    reply: asyncio.Future[Outcome] = field(default_factory=_make_future)

    def is_live(self) -> bool:
        """Whether a caller still waits; one whose deadline has passed is told so."""
        if self.reply.done():
            return False
        if self.deadline is None or self.deadline > time.monotonic():
            return True
        self.reply.set_exception(DeadlineExpired("the deadline passed in the queue"))
        return False


class FormedBatch(NamedTuple):
    """Entries of one runner, and the size in which they are encoded."""

    entries: Sequence[Entry]
    size: Size


class Queue:
    """Forms micro-batches in the order of arrival, each of entries for one runner."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()

    def put(self, entry: Entry) -> None:
        self._entries.append(entry)

    def next_runner(self) -> Runner | None:
        """Give the runner of the first entry whose caller still waits."""
        return next((entry.runner for entry in self._entries if not entry.reply.done()), None)

    def holds_full_batch(self) -> bool:
        """Tell whether waiting could not make the next micro-batch larger."""
        runner, longest, num_waiting = self.next_runner(), 0, 0
        for entry in self._entries:
            if entry.reply.done():
                continue
            if entry.runner is not runner:
                return True
            num_waiting += 1
            longest = max(longest, len(entry.query.prompt))
            if runner.limits.choose(num_waiting + 1, longest) is None:
                return True
        return False

    def form_batch(self) -> FormedBatch | None:
        """Take the next micro-batch out of the queue; None where nobody waits."""
        batch: list[Entry] = []
        size, longest = None, 0
        while self._entries:
            entry = self._entries[0]
            if entry.is_live():
                if batch and entry.runner is not batch[0].runner:
                    break
                longest = max(longest, len(entry.query.prompt))
                larger = entry.runner.limits.choose(len(batch) + 1, longest)
                if larger is None and batch:
                    break
                if larger is None:
                    problem = f"no size of the bundle holds a prompt of {longest} tokens"
                    entry.reply.set_exception(EncodingFailed(problem))
                    longest = 0
                else:
                    batch.append(entry)
                    size = larger
            self._entries.popleft()
        return FormedBatch(batch, size) if size is not None else None
