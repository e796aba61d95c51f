"""Whole services beside each other: our gRPC server, and a plain one over HTTP."""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import grpc

from engine import Interaction, RecommendRequest
from engine.bundle.opened import ITEMS_FILE
from engine.rpc.target import parse_target
from engine.rpc.wire import encode_request
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from perf.compare.contenders import EXTRA
from perf.errors import MeasureError
from perf.server_process import running, serving

K = 10

Ask = Callable[[Sequence[Interaction]], list[str]]
"""Gives the ids of K recommended items, best first; for one thread."""


class Service(NamedTuple):
    name: str
    precision: str
    is_ours: bool
    connect: Callable[[], Ask]
    """Opens a connection that is kept, one for each client."""
    packages: Sequence[str] = ()
    """The packages whose versions are reported."""


@contextmanager
def our_service(bundle: Path, precision: str) -> Iterator[Service]:
    with serving(bundle) as server, ExitStack() as channels:
        target = parse_target(server.address)

        def connect() -> Ask:
            channel = channels.enter_context(
                grpc.insecure_channel(target.name, options=target.options)
            )
            stub = RecommenderServiceStub(channel)

            def ask(history: Sequence[Interaction]) -> list[str]:
                message = encode_request(RecommendRequest(history, K))
                try:
                    answer = stub.Recommend(message)
                except grpc.RpcError as error:
                    raise MeasureError(f"{error.code().name}: {error.details()}") from error
                return [item.item_id for item in answer.items]

            return ask

        name = f"ours {precision} ({bundle}), gRPC"
        yield Service(name, precision, is_ours=True, connect=connect, packages=["grpcio"])


def has_plain_service() -> bool:
    return all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn"))


@contextmanager
def plain_service(checkpoint: Path, bundle: Path) -> Iterator[Service]:
    """Run `perf.compare.plain_service`; its item vectors are those of the bundle.

    Raises:
        MeasureError: what it needs is not installed, or it does not start.
    """
    if not has_plain_service():
        raise MeasureError(f"absent, FastAPI or uvicorn is missing; to add them: {EXTRA}")
    arguments = [str(checkpoint), str(bundle / ITEMS_FILE)]
    with running("perf.compare.plain_service", *arguments) as server, ExitStack() as connections:

        def connect() -> Ask:
            connection = HTTPConnection(server.address)
            return http_client(connections.enter_context(closing(connection)))

        name = "FastAPI + Transformers, HTTP"
        packages = ["fastapi", "uvicorn"]
        yield Service(name, "fp32", is_ours=False, connect=connect, packages=packages)


def http_client(connection: HTTPConnection) -> Ask:
    headers = {"Content-Type": "application/json"}

    def ask(history: Sequence[Interaction]) -> list[str]:
        interactions = [
            {"item_id": each.item_id, "timestamp_ms": each.timestamp_ms} for each in history
        ]
        body = json.dumps({"history": interactions, "k": K})
        try:
            connection.request("POST", "/recommend", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            raise MeasureError(f"the plain service gave no answer: {error!r}") from error
        if answer.status != HTTPStatus.OK:
            raise MeasureError(f"the plain service answered {answer.status}: {content.decode()}")
        return [item["item_id"] for item in json.loads(content)]

    return ask
