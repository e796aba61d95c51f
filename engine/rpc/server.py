"""Runs the gRPC server: listening, health, reflection, and a drain on SIGTERM or SIGINT."""

import asyncio
import signal
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine.config import Config, ServerConfig
from engine.errors import ConfigError
from engine.live import Live
from engine.rpc.service import RecommenderService
from engine.serving import Serving
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import add_RecommenderServiceServicer_to_server

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RecommenderService"].full_name
REPLY_SECONDS = 1.0
"""How long a stopping server waits for the last replies to be sent and for health watchers."""


async def serve(live: Live, config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Writes `ready HOST:PORT model=… catalogue=…` to stdout once requests are answered.

    Raises:
        ConfigError: the address cannot be listened on.
        GpuFailed: the GPU failed while serving; the server drained, to be started anew.
    """
    serving = Serving(live, config.admission)
    server = Server(serving, config.server)
    await server.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.stopping.set)
    current = live.current
    versions = f"model={current.model_version} catalogue={current.catalogue.version}"
    sys.stdout.write(f"ready {server.address} {versions}\n")
    sys.stdout.flush()
    await serving.stopping.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    await server.drain()
    if serving.failure is not None:
        raise serving.failure


class Server:
    """What serves, behind one listening address."""

    def __init__(self, serving: Serving, config: ServerConfig) -> None:
        self._config = config
        self._serving = serving
        self._health = health.aio.HealthServicer()
        self._grpc = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.so_reuseport", 0),
            ]
        )
        add_RecommenderServiceServicer_to_server(RecommenderService(serving), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        self.address = config.listen

    async def start(self) -> None:
        """Listen and answer; `address` then holds the real port.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        host, port = _parse_address(self._config.listen)
        try:
            port = self._grpc.add_insecure_port(self._config.listen)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self._config.listen}: the address is in use or not this "
                "machine's; choose another with --listen or server.listen"
            ) from error
        self.address = f"{host}:{port}"
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._grpc.start()

    async def drain(self) -> None:
        """Refuse new requests, answer those admitted within `drain_seconds`, then close."""
        await self._health.enter_graceful_shutdown()
        await self._serving.drain(self._config.drain_seconds)
        await self._grpc.stop(REPLY_SECONDS)
        await self._serving.close()


def _parse_address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if host and port.isascii() and port.isdigit() and int(port) < 2**16:
        return host, int(port)
    raise ConfigError(f"cannot listen on {listen!r}: give --listen or server.listen as HOST:PORT")
