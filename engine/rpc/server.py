"""Runs the gRPC server: listening, health, reflection, and a drain on SIGTERM or SIGINT."""

import asyncio
import sys

import grpc

from engine.config import Config, ServerConfig
from engine.live import Live
from engine.rpc.guard import Guard
from engine.rpc.listening import listen_on
from engine.rpc.service import RecommenderService
from engine.rpc.standing import add_health, add_reflection
from engine.serving import Serving
from engine.signals import StopSignals
from llmsrec.v1.recommender_pb2_grpc import add_RecommenderServiceServicer_to_server

REPLY_SECONDS = 1.0
"""How long a stopping server waits for the last replies to be sent."""


async def serve(live: Live, config: Config, signals: StopSignals) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Writes `ready ADDRESS model=… catalogue=…` to stdout once requests are answered.

    Raises:
        ConfigError: the address cannot be listened on.
        GpuFailed: the GPU failed while serving; the server drained, to be started anew.
    """
    serving = Serving(live, config.admission)
    server = Server(serving, config)
    await server.start()
    try:
        loop = asyncio.get_running_loop()
        signals.call_next(lambda: _set_from_signal(loop, serving.stopping))
        current = live.current
        versions = f"model={current.model_version} catalogue={current.catalogue.version}"
        sys.stdout.write(f"ready {server.address} {versions}\n")
        sys.stdout.flush()
        await serving.stopping.wait()
    finally:
        signals.call_next(None)
        await server.drain()
    if serving.failure is not None:
        raise serving.failure


class Server:
    """What serves, behind one listening address."""

    def __init__(self, serving: Serving, config: Config) -> None:
        self._config = config.server
        self._serving = serving
        self._guard = Guard()
        options = _make_options(config.server)
        self._grpc = grpc.aio.server(interceptors=[self._guard], options=options)
        add_RecommenderServiceServicer_to_server(RecommenderService(serving, config), self._grpc)
        self._health = add_health(self._grpc)
        add_reflection(self._grpc)
        self.address = config.server.listen

    async def start(self) -> None:
        """Listen and answer; `address` then holds the real port.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        self.address = listen_on(self._grpc, self._config.listen)
        await self._health.start()
        await self._grpc.start()

    async def drain(self) -> None:
        """Refuse new requests, answer those admitted within `drain_seconds`, then close."""
        await self._health.enter_graceful_shutdown()
        await self._serving.drain(self._config.drain_seconds)
        await self._guard.end_calls()
        await self._grpc.stop(REPLY_SECONDS)
        await self._serving.close()


def _make_options(config: ServerConfig) -> list[tuple[str, int]]:
    ping_interval_ms = round(config.min_ping_interval_seconds * 1000)
    return [
        ("grpc.max_receive_message_length", config.max_request_bytes),
        ("grpc.max_send_message_length", config.max_reply_bytes),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_interval_ms),
        ("grpc.so_reuseport", 0),
    ]


def _set_from_signal(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)
