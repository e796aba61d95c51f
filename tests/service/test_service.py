"""A real server with a fake recommender: statuses, isolation, health and drain."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NoReturn

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.fake_server import make_config
from support.generations import (
    DEFECT,
    LONG_TEXT,
    NOT_FINITE,
    SummingPipeline,
    make_generation,
)

from engine.config import Config
from engine.errors import CallFailed, ConfigError, InvalidRequest
from engine.live import Live
from engine.request import Interaction, RecommendRequest
from engine.rpc.client import recommend
from engine.rpc.server import Server
from engine.rpc.service import RecommenderService
from engine.rpc.standing import SERVICE_NAME
from engine.serving import Serving
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def make_request(*item_ids: str) -> pb.RecommendRequest:
    return pb.RecommendRequest(history=[pb.Interaction(item_id=item_id) for item_id in item_ids])


@dataclass(frozen=True)
class Running:
    server: Server
    serving: Serving
    fake: SummingPipeline
    channel: grpc.aio.Channel

    async def health(self, service: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = await health_pb2_grpc.HealthStub(self.channel).Check(request)
        return int(reply.status)

    def ask(self, *item_ids: str, timeout: float = 10) -> asyncio.Task[pb.RecommendResponse]:
        async def call() -> pb.RecommendResponse:
            stub = RecommenderServiceStub(self.channel)
            return await stub.Recommend(make_request(*item_ids), timeout=timeout)

        return asyncio.create_task(call())

    async def occupy(self, item_id: str = "0") -> asyncio.Task[pb.RecommendResponse]:
        """Hold the encoder with one request until the gate opens."""
        self.fake.gate.clear()
        self.fake.started.clear()
        task = self.ask(item_id)
        await asyncio.to_thread(self.fake.started.wait, 10)
        return task

    async def wait_in_flight(self, num_requests: int) -> None:
        async with asyncio.timeout(10):
            while self.serving.num_in_flight != num_requests:
                await asyncio.sleep(0.005)


def make_server(pipeline: SummingPipeline, config: Config) -> tuple[Server, Serving]:
    serving = Serving(Live(make_generation(pipeline)), config.admission)
    return Server(serving, config), serving


async def failure(task: asyncio.Task[pb.RecommendResponse]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await task
    return caught.value


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    fake = SummingPipeline()
    server, serving = make_server(fake, make_config(drain_seconds=0.3))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Running(server, serving, fake, channel)
    fake.gate.set()
    await server.drain()


async def test_request_is_answered_with_versions_and_timings(running: Running) -> None:
    reply = await running.ask("1", "2")
    assert [(item.item_id, item.title) for item in reply.items] == [("3", "Title 3")]
    assert (reply.model_version, reply.catalogue_version) == ("model-1", "catalogue-1")
    assert reply.num_used_interactions == 2
    assert reply.timings.total_ms >= reply.timings.queue_ms > 0
    assert reply.num_prompt_tokens == reply.micro_batch.longest_prompt_tokens == 3
    assert reply.micro_batch.num_prompts == 1


async def test_concurrent_callers_get_their_own_answers(running: Running) -> None:
    first = await running.occupy()
    waiting = [running.ask(str(i)) for i in (1, 2, 3)]
    await running.wait_in_flight(4)
    running.fake.gate.set()
    replies = await asyncio.gather(first, *waiting)
    assert [reply.items[0].item_id for reply in replies] == ["0", "1", "2", "3"]
    assert [sorted(batch) for batch in running.fake.batches] == [[0], [1, 2, 3]]


async def test_expired_request_never_reaches_the_encoder(running: Running) -> None:
    first = await running.occupy()
    error = await failure(running.ask("1", timeout=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    running.fake.gate.set()
    await first
    assert (await running.ask("2")).items[0].item_id == "2"
    assert running.fake.batches == [[0], [2]]


class ExpiredContext:
    def time_remaining(self) -> float:
        return 0.0

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise RuntimeError(code.name, details)


async def test_request_that_arrives_too_late_is_refused(running: Running) -> None:
    service = RecommenderService(running.serving, Config())
    with pytest.raises(RuntimeError, match="DEADLINE_EXCEEDED"):
        await service.Recommend(make_request("1"), ExpiredContext())  # type: ignore[arg-type]
    assert running.fake.batches == []


async def test_cancelled_request_never_reaches_the_encoder(running: Running) -> None:
    first = await running.occupy()
    leaving = running.ask("1")
    await running.wait_in_flight(2)
    leaving.cancel()
    await running.wait_in_flight(1)
    running.fake.gate.set()
    await first
    assert (await running.ask("2")).items[0].item_id == "2"
    assert running.fake.batches == [[0], [2]]


async def test_full_server_refuses_at_the_door_and_recovers(running: Running) -> None:
    admitted = [await running.occupy(), *(running.ask(str(i)) for i in (1, 2, 3))]
    await running.wait_in_flight(4)
    error = await failure(running.ask("9"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "admission.max_in_flight" in str(error.details())
    running.fake.gate.set()
    await asyncio.gather(*admitted)
    assert (await running.ask("5")).items[0].item_id == "5"


@pytest.mark.parametrize(
    ("item_ids", "details"),
    [
        pytest.param([], "history: is empty; give at least one interaction", id="semantic"),
        pytest.param(["1", ""], "history[1].item_id: is empty; name an item", id="wire"),
    ],
)
async def test_invalid_request_names_the_field(
    running: Running, item_ids: list[str], details: str
) -> None:
    error = await failure(running.ask(*item_ids))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == details


async def test_long_error_text_still_arrives_with_its_status(running: Running) -> None:
    error = await failure(running.ask(str(LONG_TEXT)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert str(error.details()).startswith("éé")


async def test_defect_is_answered_with_a_request_id_and_nothing_else(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        error = await failure(running.ask(str(DEFECT)))
    assert error.code() is grpc.StatusCode.INTERNAL
    text, _, request_id = str(error.details()).rpartition(" ")
    assert text == "internal error; the server's log has it under request"
    assert f"request {request_id} failed: KeyError at generations.py:" in caplog.text
    assert "private" not in caplog.text
    assert (await running.ask("1")).items[0].item_id == "1"


async def test_failed_encoding_is_told_to_the_caller_and_logged(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failure(running.ask(str(NOT_FINITE)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the encoder gave a user vector that is not finite"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == [error.details()]
    assert (await running.ask("1")).items[0].item_id == "1"


async def test_oversized_message_is_refused(running: Running) -> None:
    error = await failure(running.ask("1" * 20_000))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.fake.batches == []


@pytest.mark.parametrize("service", ["", SERVICE_NAME])
async def test_health_follows_the_servers_life(running: Running, service: str) -> None:
    assert await running.health(service) == SERVING
    first = await running.occupy()
    draining = asyncio.create_task(running.server.drain())
    await asyncio.sleep(0)
    assert await running.health(service) == NOT_SERVING
    running.fake.gate.set()
    await asyncio.gather(first, draining)


async def test_drain_answers_the_admitted_and_refuses_the_new(running: Running) -> None:
    first = await running.occupy()
    second = running.ask("1")
    await running.wait_in_flight(2)
    draining = asyncio.create_task(running.server.drain())
    await asyncio.sleep(0)
    error = await failure(running.ask("2"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in str(error.details())
    running.fake.gate.set()
    replies = await asyncio.gather(first, second)
    assert [reply.items[0].item_id for reply in replies] == ["0", "1"]
    await draining


async def test_drain_gives_up_when_its_time_is_over_but_outlasts_the_encode(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.fake.delay_s = 0.3
    first = await running.occupy()
    second = running.ask("1")
    await running.wait_in_flight(2)
    draining = asyncio.create_task(running.server.drain())
    codes = {(await failure(task)).code() for task in (first, second)}
    running.fake.gate.set()
    await draining
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert (running.fake.batches, running.fake.num_answered) == ([[0]], 1)
    assert "left 2 requests unanswered" in caplog.text


async def test_reflection_lists_the_service(running: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([request]))
    reply = await call.read()
    names = {service.name for service in reply.list_services_response.service}
    assert names >= {SERVICE_NAME, "grpc.health.v1.Health"}
    assert SERVICE_NAME == "llmsrec.v1.RecommenderService"


async def test_client_returns_the_engines_own_type(running: Running) -> None:
    request = RecommendRequest([Interaction("4"), Interaction("5", 1)])
    answer = await asyncio.to_thread(recommend, running.server.address, request)
    assert [(item.item_id, item.score) for item in answer.items] == [("9", 9.0)]
    assert answer.timings.total_ms > 0


async def test_client_reports_the_servers_refusal(running: Running) -> None:
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT: history: is empty") as caught:
        await asyncio.to_thread(recommend, running.server.address, RecommendRequest([]))
    assert caught.value.status == "INVALID_ARGUMENT"


async def test_client_reports_a_server_that_is_too_slow(running: Running) -> None:
    first = await running.occupy()
    request = RecommendRequest([Interaction("1")])
    with pytest.raises(CallFailed, match=r"no answer within 0\.1 s"):
        await asyncio.to_thread(recommend, running.server.address, request, 0.1)
    running.fake.gate.set()
    await first


def test_client_refuses_what_the_wire_cannot_hold() -> None:
    with pytest.raises(InvalidRequest, match=r"^k: -1"):
        recommend("127.0.0.1:1", RecommendRequest([Interaction("1")], k=-1))


async def test_address_in_use_names_the_flag(running: Running) -> None:
    config = make_config(listen=running.server.address)
    with pytest.raises(ConfigError, match=rf"{running.server.address}.*--listen.*in use"):
        await make_server(running.fake, config)[0].start()
