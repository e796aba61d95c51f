"""Runs micro-batches of the queries that wait while others are encoded."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from engine.batching.queue import Entry, FormedBatch, Queue
from engine.batching.run import Outcome, Runner, run_batch
from engine.errors import EngineError, ShuttingDown
from engine.query import Query


class Batcher:
    """Runs micro-batches in the order of arrival, each in a thread.

    While one is under way, another is begun only if waiting could not make it larger, and no more
    than its runner allows in flight. A caller sees nothing of the others in its micro-batch: where
    several fail together, each is tried again alone, unless the device is at fault. Belongs to one
    event loop.

    `max_threads` bounds what runs at once, whatever a runner allows: a pool without a bound would
    start another thread for a batch that follows at the heels of the one before.
    """

    def __init__(self, max_threads: int = 2) -> None:
        self._queue = Queue()
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="encoder")
        self._encoding: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, runner: Runner, query: Query, deadline: float | None) -> Outcome:
        """Wait for the outcome; `deadline` is in seconds of `time.monotonic`.

        Raises:
            ShuttingDown: the batcher is closed.
            DeadlineExpired: the deadline passed before the query's turn.
        """
        if self._closed:
            raise ShuttingDown("the server is shutting down; try again, another replica answers")
        entry = Entry(runner, query, deadline)
        self._queue.put(entry)
        if not self._encoding or self._may_run(len(self._encoding) + 1):
            self._encoding.add(asyncio.create_task(self._encode_entries()))
        return await entry.reply

    async def close(self) -> None:
        """Refuse new queries and wait until those submitted have their outcomes."""
        self._closed = True
        if self._encoding:
            await asyncio.wait(self._encoding)
        self._threads.shutdown()

    def _may_run(self, num_in_flight: int) -> bool:
        """Tell whether the next micro-batch may be one of so many, of which others are early."""
        runner = self._queue.next_runner()
        return (
            runner is not None
            and num_in_flight <= runner.max_batches_in_flight
            and self._queue.holds_full_batch()
        )

    async def _encode_entries(self) -> None:
        try:
            while self._is_time() and (batch := self._queue.form_batch()):
                await self._encode(batch)
        finally:
            self._encoding.remove(cast("asyncio.Task[None]", asyncio.current_task()))

    def _is_time(self) -> bool:
        return len(self._encoding) == 1 or self._may_run(len(self._encoding))

    async def _encode(self, batch: FormedBatch) -> BaseException | None:
        """Run a micro-batch, give its callers what they get, and give what went wrong."""
        runner, queries = batch.entries[0].runner, [entry.query for entry in batch.entries]
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, run_batch, runner, queries, batch.size)
        await asyncio.wait([call])
        failure = call.exception()
        if failure is None:
            for entry, outcome in zip(batch.entries, call.result(), strict=True):
                if not entry.reply.done():
                    entry.reply.set_result(outcome)
        elif len(batch.entries) > 1 and _may_differ_alone(failure):
            await self._encode_alone(batch.entries)
        else:
            _fail(batch.entries, failure)
        return failure

    async def _encode_alone(self, entries: Sequence[Entry]) -> None:
        for place, entry in enumerate(entries):
            if entry.is_live():
                failure = await self._encode(_alone(entry))
                if failure is not None and not _may_differ_alone(failure):
                    _fail(entries[place + 1 :], failure)
                    return


def _may_differ_alone(failure: BaseException) -> bool:
    return not (isinstance(failure, EngineError) and failure.scope == "device")


def _fail(entries: Sequence[Entry], failure: BaseException) -> None:
    for entry in entries:
        if not entry.reply.done():
            entry.reply.set_exception(failure)


def _alone(entry: Entry) -> FormedBatch:
    size = entry.runner.limits.require(1, len(entry.query.prompt))
    return FormedBatch([entry], size)
