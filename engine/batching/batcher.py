"""Forms micro-batches from the queries that wait while others are encoded."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

from engine.batching.micro_batch import Limits
from engine.errors import DeadlineExpired, ShuttingDown
from engine.request import Query, Recommendation

Answer = Callable[[Sequence[Query]], Sequence[Recommendation]]


@dataclass(slots=True, eq=False)
class _Entry:
    query: Query
    deadline: float | None
    reply: asyncio.Future[Recommendation]
    submitted: float = field(default_factory=time.monotonic)

    def is_live(self) -> bool:
        """Whether a caller still waits; one whose deadline has passed is told so."""
        if self.reply.done():
            return False
        if self.deadline is None or self.deadline > time.monotonic():
            return True
        self.reply.set_exception(DeadlineExpired("the deadline passed in the queue"))
        return False


class Batcher:
    """Calls `answer` with micro-batches, in the order of arrival, each call in a thread.

    While one is under way, another is begun only if waiting could not make it larger, and no more
    than `max_batches_in_flight` in all. A caller sees nothing of the others in its micro-batch:
    where several fail together, each is tried again alone. Belongs to one event loop.
    """

    def __init__(self, answer: Answer, limits: Limits, max_batches_in_flight: int = 1) -> None:
        self._answer = answer
        self._limits = limits
        self._entries: deque[_Entry] = deque()
        self._max_batches_in_flight = max_batches_in_flight
        self._threads = ThreadPoolExecutor(max_batches_in_flight, thread_name_prefix="encoder")
        self._encoding: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, query: Query, deadline: float | None) -> Recommendation:
        """Wait for the answer; `deadline` is in seconds of `time.monotonic`.

        Raises:
            ShuttingDown: the batcher is closed.
            DeadlineExpired: the deadline passed before the query's turn.
        """
        if self._closed:
            raise ShuttingDown("the server is shutting down; try again, another replica answers")
        entry = _Entry(query, deadline, asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        if not self._encoding or (
            len(self._encoding) < self._max_batches_in_flight and self._has_full_batch()
        ):
            self._encoding.add(asyncio.create_task(self._encode_entries()))
        return await entry.reply

    async def close(self) -> None:
        """Refuse new queries and wait until those submitted have their answers."""
        self._closed = True
        if self._encoding:
            await asyncio.wait(self._encoding)
        self._threads.shutdown()

    async def _encode_entries(self) -> None:
        try:
            while self._is_time() and (batch := self._form_batch()):
                await self._encode(batch)
        finally:
            self._encoding.remove(cast("asyncio.Task[None]", asyncio.current_task()))

    def _is_time(self) -> bool:
        return len(self._encoding) == 1 or self._has_full_batch()

    def _has_full_batch(self) -> bool:
        """Tell whether those that wait are too many for one micro-batch, or just enough."""
        longest, num_waiting = 0, 0
        for entry in self._entries:
            if not entry.reply.done():
                num_waiting += 1
                longest = max(longest, len(entry.query.prompt))
                if not self._limits.allow(num_waiting + 1, longest):
                    return True
        return False

    def _form_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        longest = 0
        while self._entries:
            entry = self._entries[0]
            if entry.is_live():
                longest = max(longest, len(entry.query.prompt))
                if not self._limits.allow(len(batch) + 1, longest):
                    break
                batch.append(entry)
            self._entries.popleft()
        return batch

    async def _encode(self, batch: list[_Entry]) -> None:
        started = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._answer_each, batch)
        await asyncio.wait([call])
        failure = call.exception()
        if failure is None:
            for entry, recommendation in call.result():
                recommendation.timings.queue_ms = (started - entry.submitted) * 1e3
                if not entry.reply.done():
                    entry.reply.set_result(recommendation)
        elif len(batch) > 1:
            for entry in batch:
                if entry.is_live():
                    await self._encode([entry])
        elif not batch[0].reply.done():
            batch[0].reply.set_exception(failure)

    def _answer_each(self, batch: list[_Entry]) -> list[tuple[_Entry, Recommendation]]:
        return list(zip(batch, self._answer([entry.query for entry in batch]), strict=True))
