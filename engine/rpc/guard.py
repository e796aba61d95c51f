"""Stands before the methods of every service: refuses malformed messages, ends streams at a stop.

Left to itself, gRPC answers UNKNOWN to a message that is no valid protobuf, leaves streams open
until the server is gone, and logs a traceback for each.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import isasyncgen

import grpc
from google.protobuf.message import DecodeError

from engine.untyped import Untyped

LAST_WORDS_SECONDS = 0.1
"""What a stream has to send what is new, such as that health is no longer serving."""

_LOG = logging.getLogger(__name__)


class Guard(grpc.aio.ServerInterceptor):
    def __init__(self) -> None:
        self._streams = OpenStreams()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Untyped]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Untyped:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return _Guarded(handler, handler_call_details.method, self._streams).handler()

    async def end_streams(self) -> None:
        """Answer UNAVAILABLE on every stream that is open, and wait for it."""
        await self._streams.end()


class OpenStreams:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Untyped]] = set()
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

    def __init__(self, handler: Untyped, method: str, streams: OpenStreams) -> None:
        self._handler = handler
        self._method = method
        self._streams = streams

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
        return await self._handler.unary_unary(request, context)

    async def _unary_stream(self, request: object, context: Untyped) -> None:
        await self._require_valid(request, context)
        await self._send(self._handler.unary_stream(request, context), context)

    async def _stream_stream(self, requests: AsyncIterator[object], context: Untyped) -> None:
        valid = self._valid(requests, context)
        await self._send(self._handler.stream_stream(valid, context), context)

    async def _send(self, replies: Untyped, context: Untyped) -> None:
        """Send what a handler yields, or let it send by itself, until the server stops."""
        try:
            with self._streams.entered():
                if isasyncgen(replies):
                    async for reply in replies:
                        await context.write(reply)
                else:
                    await replies
        except asyncio.CancelledError:
            if not self._streams.is_ending:
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")

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
