"""Answers the Recommend RPC: decode, admit, render, batch, reply."""

import logging
import secrets
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc

from engine.admission import Admission
from engine.batching.batcher import Batcher
from engine.errors import EncodingFailed, EngineError, GpuFailed
from engine.rpc.wire import decode_request, encode_recommendation
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceServicer

if TYPE_CHECKING:
    from engine.recommender import Recommender

    Context: TypeAlias = grpc.aio.ServicerContext[pb.RecommendRequest, pb.RecommendResponse]

MAX_DETAILS = 500
"""Characters of a status text; gRPC drops a status whose headers exceed a few KiB."""

logger = logging.getLogger(__name__)


class RecommenderService(RecommenderServiceServicer):
    """Answers one RPC; calls `stop` when no further one can be answered."""

    def __init__(
        self,
        recommender: "Recommender",
        batcher: Batcher,
        admission: Admission,
        stop: Callable[[EngineError], None],
    ) -> None:
        self._recommender = recommender
        self._stop = stop
        self._batcher = batcher
        self._admission = admission

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: "Context"
    ) -> pb.RecommendResponse:
        try:
            return await self._reply(request, context.time_remaining())
        except EngineError as error:
            if isinstance(error, EncodingFailed | GpuFailed):
                logger.error("%s", error)  # noqa: TRY400
            if isinstance(error, GpuFailed):
                self._stop(error)
            await context.abort(grpc.StatusCode[error.status], str(error)[:MAX_DETAILS])
        except Exception as error:  # noqa: BLE001
            request_id = secrets.token_hex(8)
            _log_failure(request_id, error)
            await context.abort(
                grpc.StatusCode.INTERNAL,
                f"internal error; the server's log has it under request {request_id}",
            )

    async def _reply(
        self, message: pb.RecommendRequest, remaining_s: float | None
    ) -> pb.RecommendResponse:
        started = time.monotonic()
        deadline = None if remaining_s is None else started + remaining_s
        request = decode_request(message)
        with self._admission.permit(deadline):
            query = self._recommender.render(request)
            recommendation = await self._batcher.submit(query, deadline)
        recommendation.timings.total_ms = (time.monotonic() - started) * 1e3
        return encode_recommendation(recommendation)


def _log_failure(request_id: str, error: Exception) -> None:
    """Log the exception's type and place; its text may quote what a user typed."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    logger.error("request %s failed: %s at %s", request_id, type(error).__name__, places)
