"""Stands before the methods of every service: refuses malformed messages, ends calls at a stop.

Left to itself, gRPC answers UNKNOWN to a message that is no valid protobuf, and CANCELLED, which no
client tries again, to calls that a stop leaves unanswered; it logs a traceback for each.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from inspect import isasyncgen

import grpc
from google.protobuf.message import DecodeError

from engine.untyped import Untyped

LAST_WORDS_SECONDS = 0.1
"""What a call has to send what is new, such as that health is no longer serving."""
QUIET_SECONDS = 0.2
"""After so long without a new call, none that gRPC has received is left unseen."""
LATE_SECONDS = 3.0
"""How long calls that come in late are refused, before gRPC cancels what comes."""

_LOG = logging.getLogger(__name__)


class Guard(grpc.aio.ServerInterceptor):
    def __init__(self) -> None:
        self._calls = OpenCalls()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Untyped]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Untyped:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return _Guarded(handler, handler_call_details.method, self._calls).handler()

    async def end_calls(self) -> None:
        """Answer UNAVAILABLE to every call that is open or comes in, until none does any more."""
        await self._calls.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_SECONDS):
                await self._calls.wait_quiet()


class OpenCalls:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Untyped]] = set()
        self._num_late = 0
        self.is_ending = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def refuse_late(self) -> bool:
        """Tell whether a call that begins now has come too late, and count it."""
        self._num_late += self.is_ending
        return self.is_ending

    async def wait_quiet(self) -> None:
        """Wait until no call has come too late for a while."""
        num_seen = -1
        while num_seen != self._num_late:
            num_seen = self._num_late
            await asyncio.sleep(QUIET_SECONDS)

    async def end(self) -> None:
        self.is_ending = True
        if self._tasks:
            await asyncio.sleep(LAST_WORDS_SECONDS)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Malformed:
    """Stands for a message that could not be read."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


class _Guarded:
    """One method's handler, behind a reader that raises nothing."""

    def __init__(self, handler: Untyped, method: str, calls: OpenCalls) -> None:
        self._handler = handler
        self._method = method
        self._calls = calls

    def handler(self) -> Untyped:
        codecs = (self._read, self._handler.response_serializer)
        if self._handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._stream_stream, *codecs)
        if self._handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._unary_stream, *codecs)
        return grpc.unary_unary_rpc_method_handler(self._unary_unary, *codecs)

    def _read(self, content: bytes) -> object:
        try:
            return self._handler.request_deserializer(content)
        except DecodeError:
            return _Malformed(len(content))

    async def _unary_unary(self, request: object, context: Untyped) -> object:
        await self._require_valid(request, context)
        return await self._until_the_end(self._handler.unary_unary(request, context), context)

    async def _unary_stream(self, request: object, context: Untyped) -> None:
        await self._require_valid(request, context)
        replies = self._handler.unary_stream(request, context)
        await self._until_the_end(_send(replies, context), context)

    async def _stream_stream(self, requests: AsyncIterator[object], context: Untyped) -> None:
        replies = self._handler.stream_stream(self._valid(requests, context), context)
        await self._until_the_end(_send(replies, context), context)

    async def _until_the_end(
        self, answering: Coroutine[object, object, object], context: Untyped
    ) -> object:
        """Let a handler answer, unless the server stops."""
        if self._calls.refuse_late():
            answering.close()
            await _refuse_late(context)
        try:
            with self._calls.entered():
                return await answering
        except asyncio.CancelledError:
            if self._calls.is_ending:
                await _refuse_late(context)
            raise

    async def _valid(
        self, requests: AsyncIterator[object], context: Untyped
    ) -> AsyncIterator[object]:
        async for request in requests:
            await self._require_valid(request, context)
            yield request

    async def _require_valid(self, request: object, context: Untyped) -> None:
        if not isinstance(request, _Malformed):
            return
        _LOG.warning(
            "refused a message of %d bytes to %s: no valid protobuf",
            request.num_bytes,
            self._method,
        )
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the message is no valid protobuf of this method: it was cut off, is of another type,"
            " or a string in it is not UTF-8",
        )


async def _send(replies: Untyped, context: Untyped) -> None:
    """Send what a handler yields, or let it send by itself."""
    if isasyncgen(replies):
        async for reply in replies:
            await context.write(reply)
    else:
        await replies


async def _refuse_late(context: Untyped) -> None:
    await context.abort(
        grpc.StatusCode.UNAVAILABLE,
        "the server is shutting down; try again, another replica answers",
    )
