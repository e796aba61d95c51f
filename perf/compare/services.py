"""Whole services beside each other: our gRPC server, and a plain one over HTTP."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import grpc

from engine import Interaction, RecommendRequest
from engine.bundle.opened import ITEMS_FILE
from engine.rpc.wire import encode_request
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from perf.compare.errors import CompareError
from perf.compare.peer import EXTRA
from perf.server_process import serving

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
    """Of which the versions are reported."""


@contextmanager
def our_service(bundle: Path, precision: str) -> Iterator[Service]:
    with serving(bundle) as server, ExitStack() as channels:

        def connect() -> Ask:
            channel = channels.enter_context(grpc.insecure_channel(server.address))
            stub = RecommenderServiceStub(channel)

            def ask(history: Sequence[Interaction]) -> list[str]:
                message = encode_request(RecommendRequest(history, K))
                try:
                    answer = stub.Recommend(message)
                except grpc.RpcError as error:
                    raise CompareError(f"{error.code().name}: {error.details()}") from error
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
        CompareError: what it needs is not installed, or it does not start.
    """
    if not has_plain_service():
        raise CompareError(f"absent, FastAPI or uvicorn is missing; to add them: {EXTRA}")
    command = [sys.executable, "-m", "perf.compare.plain_service"]
    arguments = [str(checkpoint), str(bundle / ITEMS_FILE)]
    with (
        subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process,
        ExitStack() as connections,
    ):
        try:
            ready = process.stdout.readline().split() if process.stdout else []
            if not ready:
                raise CompareError("failed: it did not start; its message is above")

            def connect() -> Ask:
                connection = HTTPConnection(ready[1])
                return http_client(connections.enter_context(closing(connection)))

            name = "FastAPI + Transformers, HTTP"
            packages = ["fastapi", "uvicorn"]
            yield Service(name, "fp32", is_ours=False, connect=connect, packages=packages)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


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
            raise CompareError(f"the plain service gave no answer: {error!r}") from error
        if answer.status != HTTPStatus.OK:
            raise CompareError(f"the plain service answered {answer.status}: {content.decode()}")
        return [item["item_id"] for item in json.loads(content)]

    return ask


def time_answer(ask: Ask, history: Sequence[Interaction]) -> float:
    """Give the milliseconds of one answer."""
    started = time.perf_counter()
    ask(history)
    return (time.perf_counter() - started) * 1e3
