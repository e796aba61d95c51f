"""Asks a running server for recommendations."""

import grpc

from engine.errors import CallFailed
from engine.request import Recommendation, RecommendRequest
from engine.request_types import check_request
from engine.rpc.failure import Call, explain
from engine.rpc.target import parse_target
from engine.rpc.wire import decode_recommendation, encode_request
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub


def recommend(address: str, request: RecommendRequest, timeout_s: float = 5.0) -> Recommendation:
    """Call the server at `HOST:PORT` or `unix:PATH` and wait for its answer.

    A proxy that the environment names is never asked for an address of this machine.

    Raises:
        ConfigError: the address is none.
        InvalidRequest: a value is of another type than its field's, or outside its range.
        CallFailed: no server answered in time, or the one that did refused the request.
    """
    call = Call(parse_target(address), check_request(request), timeout_s)
    message, target = encode_request(call.request), call.target
    with grpc.insecure_channel(target.name, options=target.options) as channel:
        try:
            reply = RecommenderServiceStub(channel).Recommend(message, timeout=timeout_s)
        except grpc.RpcError as error:
            text = explain(error, channel, call)
            raise CallFailed(error.code().name, text) from error
    return decode_recommendation(reply)
