"""Asks a running server for recommendations."""

import grpc

from engine.errors import CallFailed
from engine.request import Recommendation, RecommendRequest
from engine.rpc.wire import decode_recommendation, encode_request
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub

_UNLIMITED = [("grpc.max_receive_message_length", -1)]


def recommend(address: str, request: RecommendRequest, timeout_s: float = 5.0) -> Recommendation:
    """Call the server at `HOST:PORT` and wait for its answer.

    Raises:
        InvalidRequest: a value is outside its field's range on the wire.
        CallFailed: no server answered in time, or the one that did refused the request.
    """
    message = encode_request(request)
    with grpc.insecure_channel(address, options=_UNLIMITED) as channel:
        try:
            reply = RecommenderServiceStub(channel).Recommend(message, timeout=timeout_s)
        except grpc.RpcError as error:
            text = _explain(error, address, timeout_s)
            raise CallFailed(error.code().name, text) from error
    return decode_recommendation(reply)


def _explain(error: grpc.RpcError, address: str, timeout_s: float) -> str:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            remedy = "check the address and that a server runs there"
            return f"{address} is not available: {error.details()}; {remedy}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{address} gave no answer within {timeout_s:g} s; allow more with --timeout"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} is no server of llmsrec.v1.RecommenderService; check the address"
        case status:
            return f"{address} answered {status.name}: {error.details()}"
