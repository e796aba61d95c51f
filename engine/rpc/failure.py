"""Says in plain words why a call brought no recommendation, and what to do about it."""

import threading
from dataclasses import dataclass

import grpc

from engine.request import RecommendRequest
from engine.rpc.target import Target

_CHECK_ADDRESS = "check the address and that a server runs there"
_UNREACHED = {
    "Connection refused": "the connection was refused, so no server listens there; start one with"
    " `python -m engine serve`, or check the address",
    "No such file or directory": "there is no such socket; start a server on it, or check the path",
    "errors resolving": "no such host is known; check its spelling, and the network's name service",
    "http1.x server": "what listens there speaks HTTP/1 and not gRPC; check the port",
    "Failed parsing HTTP/2": "what listens there does not speak gRPC; check the port",
    "Socket closed": "what listens there hangs up on gRPC without TLS: it speaks TLS, which the"
    " engine does not, or is no gRPC server; check the port",
}
_UNREACHED["recvmsg:"] = _UNREACHED["Socket closed"]
"""What gRPC says where it could not connect, and what that means."""

_SILENT = (
    "what listens there does not speak gRPC, or a firewall keeps silent; check the address, or"
    " allow more with --timeout"
)
_STATE_SECONDS = 1.0
_MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Call:
    target: Target
    request: RecommendRequest
    timeout_s: float


def explain(error: grpc.RpcError, channel: grpc.Channel, call: Call) -> str:
    target, details = call.target, error.details() or "it gave no reason"
    name = target.name
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return f"{name} is not available: {_explain_unavailable(details, target)}"
        case grpc.StatusCode.DEADLINE_EXCEEDED if not _is_connected(channel):
            silent = f"{name} did not connect within {call.timeout_s:g} s"
            return f"{silent}: {_SILENT}{_blame_proxy(target)}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{name} gave no answer within {call.timeout_s:g} s; allow more with --timeout"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{name} is no server of llmsrec.v1.RecommenderService; check the address"
        case grpc.StatusCode.INVALID_ARGUMENT if details.startswith("history:"):
            return f"{name} answered INVALID_ARGUMENT: {details}{_name_items(call.request)}"
        case status:
            return f"{name} answered {status.name}: {details}"


def _explain_unavailable(details: str, target: Target) -> str:
    if not details.startswith(("failed to connect", "errors resolving")):
        return f"{details}; {_CHECK_ADDRESS}"
    meanings = (meaning for sign, meaning in _UNREACHED.items() if sign in details)
    return next(meanings, f"{details}; {_CHECK_ADDRESS}") + _blame_proxy(target)


def _blame_proxy(target: Target) -> str:
    if (variable := target.proxy_variable) is None:
        return ""
    return (
        f"; the environment variable {variable} sends the call through a proxy: unset it, or name"
        f" {target.host} in no_proxy"
    )


def _is_connected(channel: grpc.Channel) -> bool:
    """Tell whether the other side has spoken gRPC; waits for what the channel says of itself."""
    states: list[grpc.ChannelConnectivity] = []
    told = threading.Event()

    def note(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        told.set()

    channel.subscribe(note)
    told.wait(_STATE_SECONDS)
    channel.unsubscribe(note)
    return grpc.ChannelConnectivity.READY in states


def _name_items(request: RecommendRequest) -> str:
    """Name what was asked with, as the server tells of it by number only."""
    ids = list(dict.fromkeys(interaction.item_id for interaction in request.history))
    if not ids:
        return ""
    more = f" and {len(ids) - _MAX_NAMED} more" if len(ids) > _MAX_NAMED else ""
    return f" (asked with {', '.join(map(repr, ids[:_MAX_NAMED]))}{more})"
