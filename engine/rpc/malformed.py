"""Refuses messages that are no valid protobuf, of whatever service, before it sees them."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isasyncgen

import grpc
from google.protobuf.message import DecodeError

from engine.untyped import Untyped

_LOG = logging.getLogger(__name__)


class RefuseMalformed(grpc.aio.ServerInterceptor):
    """Answers INVALID_ARGUMENT and logs a line, where gRPC answers UNKNOWN and logs a traceback."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Untyped]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Untyped:
        handler = await continuation(handler_call_details)
        return None if handler is None else _Guarded(handler, handler_call_details.method).handler()


class _Malformed:
    """Stands for a message that could not be read."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


class _Guarded:
    """One method's handler, behind a reader that raises nothing."""

    def __init__(self, handler: Untyped, method: str) -> None:
        self._handler = handler
        self._method = method

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
        replies = self._handler.unary_stream(request, context)
        if isasyncgen(replies):
            async for reply in replies:
                await context.write(reply)
        else:
            await replies

    async def _stream_stream(
        self, requests: AsyncIterator[object], context: Untyped
    ) -> AsyncIterator[object]:
        async for reply in self._handler.stream_stream(self._valid(requests, context), context):
            yield reply

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
