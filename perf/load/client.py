"""One client process: sends its part of a plan on time, whatever becomes of the answers."""

import asyncio
import contextlib
import gc
import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeAlias

import grpc

from llmsrec.v1 import recommender_pb2 as pb
from perf.load.plan import Plan
from perf.load.settings import Clients
from perf.load.tally import Slot, Tally

if TYPE_CHECKING:
    Call: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[bytes, pb.RecommendResponse]

SERVICE = pb.DESCRIPTOR.services_by_name["RecommenderService"]
METHOD = f"/{SERVICE.full_name}/Recommend"
STAGES = [field.name for field in pb.StageTimings.DESCRIPTOR.fields]
UNLIMITED = [("grpc.max_receive_message_length", -1)]
CONNECT_SECONDS = 10.0
PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Task:
    address: str
    plan: Plan
    clients: Clients
    num_slots: int


def run_client(task: Task, parent: Connection) -> None:
    """Report 0 when ready, take the start on the monotonic clock, report progress, give the tally.

    A report is the number of requests that are done with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its clients itself
    gc.freeze()  # a collection would walk the plan while requests wait to be sent
    # select() wakes to the microsecond, where asyncio rounds epoll's sleep up to a millisecond.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        parent.send(runner.run(ask_all(task, parent)))


async def ask_all(task: Task, parent: Connection) -> Tally:
    """Do as `run_client` does, but give the tally back."""
    async with grpc.aio.insecure_channel(task.address, options=UNLIMITED) as channel:
        async with asyncio.timeout(CONNECT_SECONDS):
            await channel.channel_ready()
        parent.send(0)
        sender = _Sender(task, channel, parent.recv())
        with _reporting(sender, parent):
            await sender.send_all()
    return sender.tally


class _Sender:
    def __init__(self, task: Task, channel: grpc.aio.Channel, start_s: float) -> None:
        self._plan = task.plan
        self._clients = task.clients
        self._start_s = start_s
        self._call: Call = channel.unary_unary(  # requests are serialised in the plan
            METHOD, response_deserializer=pb.RecommendResponse.FromString
        )
        self.tally = Tally([Slot() for _ in range(task.num_slots)])
        self.num_done = 0

    async def send_all(self) -> None:
        """Send every request at its time and wait for what becomes of them."""
        times_and_rows = zip(
            self._plan.send_times_s.tolist(), self._plan.message_rows.tolist(), strict=True
        )
        async with asyncio.TaskGroup() as asking:
            for send_time_s, row in times_and_rows:
                intended_s = self._start_s + send_time_s
                await asyncio.sleep(max(intended_s - time.monotonic(), 0))
                since_warm_up_s = send_time_s - self._plan.warm_up_s
                asking.create_task(self._ask(self._plan.messages[row], intended_s, since_warm_up_s))

    async def _ask(self, message: bytes, intended_s: float, since_warm_up_s: float) -> None:
        lag_s = time.monotonic() - intended_s
        reply, status = None, ""
        try:
            reply = await self._call(message, timeout=self._clients.deadline_ms / 1e3)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        latency_ms = (time.monotonic() - intended_s) * 1e3
        self.num_done += 1
        if since_warm_up_s < 0:
            return
        self.tally.add_send(lag_s * 1e3, since_warm_up_s + lag_s)
        slot = self._slot_of(since_warm_up_s)
        if reply is None:
            self.tally.add_failure(slot, status)
        else:
            stages_ms = {name: getattr(reply.timings, name) for name in STAGES}
            self.tally.add_answer(slot, latency_ms, stages_ms, self._clients.objective_ms)
            answered_s = since_warm_up_s + latency_ms / 1e3
            self.tally.last_answer_s = max(self.tally.last_answer_s, answered_s)
            self._count_row(reply)

    def _count_row(self, reply: pb.RecommendResponse) -> None:
        batch = reply.micro_batch
        if batch.num_prompts:  # an older server does not tell
            self.tally.batches.add(
                batch.num_prompts, reply.num_prompt_tokens, batch.longest_prompt_tokens
            )

    def _slot_of(self, since_warm_up_s: float) -> int:
        num_slots = len(self.tally.slots)
        return min(int(since_warm_up_s / self._plan.duration_s * num_slots), num_slots - 1)


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
