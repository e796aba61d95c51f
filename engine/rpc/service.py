"""Answers the Recommend RPC: what comes in and goes out on the wire, and which status."""

import logging
import secrets
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc

from engine.config import Config
from engine.errors import EngineError
from engine.rpc.bounds import check_request, fit_reply
from engine.rpc.wire import decode_request, encode_recommendation
from engine.serving import Serving
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceServicer

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[pb.RecommendRequest, pb.RecommendResponse]

MAX_DETAILS = 500
"""Characters of a status text; gRPC drops a status whose headers exceed a few KiB."""

logger = logging.getLogger(__name__)


class RecommenderService(RecommenderServiceServicer):
    """Decodes, calls the engine, encodes, and turns each error into its status."""

    def __init__(self, serving: Serving, config: Config) -> None:
        self._serving = serving
        self._config = config

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: "Context"
    ) -> pb.RecommendResponse:
        received, remaining_s = time.monotonic(), context.time_remaining()
        deadline = None if remaining_s is None else received + remaining_s
        try:
            return await self._answer(request, received, deadline)
        except EngineError as error:
            await context.abort(grpc.StatusCode[error.status], str(error)[:MAX_DETAILS])
        except Exception as error:  # noqa: BLE001
            request_id = secrets.token_hex(8)
            _log_failure(request_id, error)
            await context.abort(
                grpc.StatusCode.INTERNAL,
                f"internal error; the server's log has it under request {request_id}",
            )

    async def _answer(
        self, request: pb.RecommendRequest, received: float, deadline: float | None
    ) -> pb.RecommendResponse:
        check_request(request, self._config.request)
        answer = await self._serving.recommend(decode_request(request), received, deadline)
        reply = encode_recommendation(answer)
        fit_reply(reply, self._config.server.max_reply_bytes)
        return reply


def _log_failure(request_id: str, error: Exception) -> None:
    """Log the exception's type and place; its text may quote what a user typed."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    logger.error("request %s failed: %s at %s", request_id, type(error).__name__, places)
