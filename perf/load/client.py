"""One client process: sends its part of a schedule on time, whatever becomes of the answers."""

import asyncio
import contextlib
import gc
import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import grpc

from engine.rpc.target import parse_target
from llmsrec.v1 import recommender_pb2 as pb
from perf.load.schedule import Schedule

if TYPE_CHECKING:
    Call: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

SERVICE = pb.DESCRIPTOR.services_by_name["RecommenderService"]
METHOD = f"/{SERVICE.full_name}/Recommend"
CONNECT_SECONDS = 10.0
PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ClientTask:
    address: str
    schedule: Schedule
    deadline_ms: float


class SentRequest(NamedTuple):
    """A measured request and what became of it; both are parsed when the clock stands."""

    intended_s: float
    """When it was to be sent, since the end of the warm-up."""
    lag_ms: float
    """How much later than intended it was sent."""
    latency_ms: float
    """From the intended time until the answer."""
    status: str
    """The gRPC status that it ended with instead of an answer, else empty."""
    message: bytes
    reply: bytes


def run_client(task: ClientTask, parent: Connection) -> None:
    """Report 0 when ready, take the start on the monotonic clock, report progress, then give all.

    A report is the number of requests that are done with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its clients itself
    gc.freeze()  # a collection would walk the schedule while requests wait to be sent
    # select() wakes to the microsecond, where asyncio rounds epoll's sleep up to a millisecond.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        parent.send(runner.run(ask_all(task, parent)))


async def ask_all(task: ClientTask, parent: Connection) -> list[SentRequest]:
    """Do as `run_client` does, but return what was sent."""
    target = parse_target(task.address)
    async with grpc.aio.insecure_channel(target.name, options=target.options) as channel:
        async with asyncio.timeout(CONNECT_SECONDS):
            await channel.channel_ready()
        parent.send(0)
        sender = _Sender(task, channel, parent.recv())
        with _reporting(sender, parent):
            await sender.send_all()
    return sender.measured


class _Sender:
    def __init__(self, task: ClientTask, channel: grpc.aio.Channel, start_s: float) -> None:
        self._schedule = task.schedule
        self._deadline_s = task.deadline_ms / 1e3
        self._start_s = start_s
        self._call: Call = channel.unary_unary(METHOD)
        self.measured: list[SentRequest] = []
        self.num_done = 0

    async def send_all(self) -> None:
        """Send every request at its time and wait for what becomes of them."""
        times_and_rows = zip(
            self._schedule.send_times_s.tolist(), self._schedule.message_rows.tolist(), strict=True
        )
        async with asyncio.TaskGroup() as asking:
            for send_time_s, row in times_and_rows:
                intended_s = self._start_s + send_time_s
                await asyncio.sleep(max(intended_s - time.monotonic(), 0))
                since_warm_up_s = send_time_s - self._schedule.warm_up_s
                message = self._schedule.messages[row]
                asking.create_task(self._ask(message, intended_s, since_warm_up_s))

    async def _ask(self, message: bytes, intended_s: float, since_warm_up_s: float) -> None:
        lag_ms = (time.monotonic() - intended_s) * 1e3
        reply, status = b"", ""
        try:
            reply = await self._call(message, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        latency_ms = (time.monotonic() - intended_s) * 1e3
        self.num_done += 1
        if since_warm_up_s >= 0:
            self.measured.append(
                SentRequest(since_warm_up_s, lag_ms, latency_ms, status, message, reply)
            )


@contextlib.contextmanager
def _reporting(sender: _Sender, parent: Connection) -> Iterator[None]:
    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            parent.send(sender.num_done)

    reporting = asyncio.create_task(report())
    try:
        yield
    finally:
        reporting.cancel()
