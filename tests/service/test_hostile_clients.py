"""What a client may do wrong, or too much of, hurts nobody else and is answered in words."""

import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from support.generations import SummingPipeline, make_generation

from engine.config import Config, RequestConfig, ServerConfig
from engine.errors import InvalidRequest
from engine.live import Live
from engine.rpc.bounds import fit_reply
from engine.rpc.server import Server
from engine.rpc.standing import REFLECTION_SERVICE_NAME, SERVICE_NAME
from engine.serving import Serving
from engine.untyped import Untyped
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub

RECOMMEND = f"/{SERVICE_NAME}/Recommend"
NOT_UTF8 = b"\x0a\x04\x0a\x02\xff\xfe"
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
SHORT_PINGS = [
    ("grpc.keepalive_time_ms", 100),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


class Running(NamedTuple):
    server: Server
    channel: grpc.aio.Channel


def make_server(config: Config) -> Server:
    serving = Serving(Live(make_generation(SummingPipeline())), config.admission)
    return Server(serving, config)


@pytest.fixture
def config() -> Config:
    return Config(server=ServerConfig(listen="127.0.0.1:0"))


@pytest.fixture
async def running(config: Config) -> AsyncIterator[Running]:
    server = make_server(config)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Running(server, channel)
    await server.drain()


async def ask(running: Running, request: pb.RecommendRequest) -> pb.RecommendResponse:
    reply: pb.RecommendResponse = await RecommenderServiceStub(running.channel).Recommend(
        request, timeout=30
    )
    return reply


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param("unary_unary", RECOMMEND, id="one answer"),
        pytest.param("unary_unary", "/grpc.health.v1.Health/Check", id="health"),
        pytest.param("unary_stream", "/grpc.health.v1.Health/Watch", id="stream of answers"),
        pytest.param(
            "stream_stream", f"/{REFLECTION_SERVICE_NAME}/ServerReflectionInfo", id="two streams"
        ),
    ],
)
@pytest.mark.parametrize("content", [NOT_UTF8, b"\xff", b"\x0a\x7f"], ids=["text", "tag", "cut"])
async def test_malformed_message_is_an_invalid_argument_and_one_line_in_the_log(
    running: Running, kind: str, method: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    call = getattr(running.channel, kind)(method)
    sent = iter([content]) if kind == "stream_stream" else content
    reply = call(sent, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError, match="no valid protobuf") as caught:
        await (reply if kind == "unary_unary" else reply.read())
    assert caught.value.code() is INVALID
    lines = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert lines == [f"refused a message of {len(content)} bytes to {method}: no valid protobuf"]


async def test_fields_of_a_newer_proto_are_passed_over(running: Running) -> None:
    message = pb.RecommendRequest(history=[pb.Interaction(item_id="3")]).SerializeToString()
    recommend: Untyped = running.channel.unary_unary(RECOMMEND)
    answer = await recommend(message + b"\xa2\x06\x01x", timeout=10)
    assert pb.RecommendResponse.FromString(answer).items[0].item_id == "3"


async def test_health_lists_the_server_and_its_service(running: Running) -> None:
    stub = health_pb2_grpc.HealthStub(running.channel)
    statuses = (await stub.List(health_pb2.HealthListRequest(), timeout=10)).statuses
    assert {name: found.status for name, found in statuses.items()} == {"": 1, SERVICE_NAME: 1}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_in_both_versions(running: Running, version: str) -> None:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME)
    reflect: Untyped = running.channel.stream_stream(method)
    content = await reflect(iter([request.SerializeToString()]), timeout=10).read()
    reply = reflection_pb2.ServerReflectionResponse.FromString(content)
    assert len(reply.file_descriptor_response.file_descriptor_proto) == 1


class TestRequestBeyondABound:
    @pytest.fixture
    def config(self) -> Config:
        bounds = RequestConfig(max_interactions=3, max_excluded_ids=2, max_id_characters=5, max_k=4)
        return Config(server=ServerConfig(listen="127.0.0.1:0"), request=bounds)

    @pytest.mark.parametrize(
        ("history", "excluded", "k", "problem"),
        [
            pytest.param(["1"] * 4, [], 1, r"history: has 4.*max_interactions \(3\)", id="history"),
            pytest.param(
                ["1"], ["1"] * 3, 1, r"excluded_item_ids: .*max_excluded_ids \(2\)", id="ids"
            ),
            pytest.param(["1"], [], 5, r"k: is 5, over request\.max_k \(4\)", id="k"),
            pytest.param(
                ["1", "x" * 6], [], 1, r"history\[1\]\.item_id: .*max_id_characters \(5\)", id="id"
            ),
            pytest.param(
                ["1"], ["x" * 6], 1, r"excluded_item_ids\[0\]: .*max_id_characters", id="excluded"
            ),
        ],
    )
    async def test_is_refused_with_field_and_setting(
        self, running: Running, history: list[str], excluded: list[str], k: int, problem: str
    ) -> None:
        interactions = [pb.Interaction(item_id=item_id) for item_id in history]
        request = pb.RecommendRequest(history=interactions, excluded_item_ids=excluded, k=k)
        with pytest.raises(grpc.aio.AioRpcError, match=problem) as caught:
            await ask(running, request)
        assert caught.value.code() is INVALID

    async def test_is_answered_where_it_is_the_bound(self, running: Running) -> None:
        interactions = [pb.Interaction(item_id="1")] * 3
        request = pb.RecommendRequest(history=interactions, excluded_item_ids=["xxxxx"] * 2, k=4)
        assert (await ask(running, request)).num_used_interactions == 3


class TestReplyBeyondItsBound:
    @pytest.fixture
    def config(self) -> Config:
        return Config(server=ServerConfig(listen="127.0.0.1:0", max_reply_bytes=2**14))

    async def test_leaves_the_ignored_ids_out_and_counts_them(self, running: Running) -> None:
        ignored = [pb.Interaction(item_id="x" * 200)] * 100
        request = pb.RecommendRequest(history=[*ignored, pb.Interaction(item_id="1")])
        reply = await ask(running, request)
        assert reply.items[0].item_id == "1"
        assert (len(reply.ignored_interactions), reply.num_ignored_interactions) == (0, 100)

    def test_is_refused_with_the_setting_where_the_items_are_too_many(self) -> None:
        items = [pb.RankedItem(item_id="x" * 10, title="y" * 100)] * 200
        with pytest.raises(InvalidRequest, match=r"k: .*max_reply_bytes \(16384\).* 200 items"):
            fit_reply(pb.RecommendResponse(items=items), 2**14)


@pytest.mark.parametrize("interval_s", [0.05, 5.0])
async def test_pings_are_taken_down_to_the_configured_interval(interval_s: float) -> None:
    server = make_server(
        Config(server=ServerConfig("127.0.0.1:0", min_ping_interval_seconds=interval_s))
    )
    await server.start()
    async with grpc.aio.insecure_channel(server.address, SHORT_PINGS) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=5.0
        )
        await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
    await server.drain()
    lasts = interval_s < 1
    expected = grpc.StatusCode.DEADLINE_EXCEEDED if lasts else UNAVAILABLE
    assert caught.value.code() is expected
