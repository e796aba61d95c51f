"""A saturated server beside bare forwards: the same batches, each request asked once."""

import argparse
import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import CallFailed
from engine.query import FIRST_SEARCH, Prompt, Query
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import (
    RecommenderServiceServicer,
    add_RecommenderServiceServicer_to_server,
)
from perf import saturation
from perf.errors import WrongAnswer
from perf.timing import PAUSE_S

REFUSED_K = 13


class CountingService(RecommenderServiceServicer):
    """Answers with the request's k and remembers how many asked at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.num_in_flight = 0
        self.most_in_flight = 0

    async def Recommend(  # noqa: N802
        self,
        request: pb.RecommendRequest,
        context: "grpc.aio.ServicerContext[pb.RecommendRequest, pb.RecommendResponse]",
    ) -> pb.RecommendResponse:
        self.asked.append(request.k)
        if request.k == REFUSED_K:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        await asyncio.sleep(0.01 * (request.k % 3))
        self.num_in_flight -= 1
        return pb.RecommendResponse(num_used_interactions=request.k)


@asynccontextmanager
async def counting_server(service: CountingService) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RecommenderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(grace=None)


def make_messages(ks: Sequence[int]) -> list[bytes]:
    return [pb.RecommendRequest(k=k).SerializeToString() for k in ks]


async def test_all_are_asked_once_so_many_at_a_time_and_answers_keep_their_order() -> None:
    service, ks = CountingService(), range(100, 130)
    async with counting_server(service) as address:
        replies, seconds = await saturation.time_server(address, make_messages(ks), 4)
    assert [reply.num_used_interactions for reply in replies] == list(ks)
    assert sorted(service.asked) == list(ks)
    assert service.most_in_flight == 4
    assert 30 * 0.01 / 4 < seconds < 5


async def test_refusal_ends_the_measurement() -> None:
    async with counting_server(CountingService()) as address:
        with pytest.raises(CallFailed, match="too many"):
            await saturation.time_server(address, make_messages([1, REFUSED_K, 2]), 2)


def make_reply(encode_ms: float, num_prompts: int, longest: int = 9) -> pb.RecommendResponse:
    return pb.RecommendResponse(
        timings=pb.StageTimings(encode_ms=encode_ms),
        micro_batch=pb.MicroBatch(num_prompts=num_prompts, longest_prompt_tokens=longest),
    )


def test_replies_of_one_forward_are_one_batch() -> None:
    sizes = [(1.5, 2, 9), (2.5, 2, 9), (2.5, 2, 9), (1.5, 2, 9), (2.5, 1, 9), (1.5, 1, 8)]
    replies = [make_reply(*each) for each in sizes]
    assert saturation.group_by_batch(replies) == [[0, 3], [1, 2], [4], [5]]


def test_batch_with_a_reply_missing_is_no_batch() -> None:
    with pytest.raises(AssertionError, match="cannot be told apart"):
        saturation.group_by_batch([make_reply(1.5, 2)])


def make_query(num_tokens: int) -> Query:
    tokens = np.zeros(num_tokens, np.int32)
    return Query(Prompt(tokens, tokens), FIRST_SEARCH)


def test_forwards_are_of_the_servers_batches_and_vectors_in_the_order_of_its_answers() -> None:
    batches: list[list[int]] = []

    def encode(prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        batches.append([len(prompt) for prompt in prompts])
        return np.array([[len(prompt)] for prompt in prompts], np.float32)

    queries = [make_query(num_tokens) for num_tokens in (5, 6, 7)]
    vectors, seconds = saturation.time_forwards(encode, queries, [[2, 0], [1]])
    assert seconds < PAUSE_S
    assert batches == [[7, 5], [6]]
    assert vectors.tolist() == [[5], [6], [7]]


def test_both_sides_are_timed_on_the_same_tokens(reference_bundle: Path) -> None:
    parser = argparse.ArgumentParser()
    saturation.add_arguments(parser)
    flags = ["--requests=12", "--concurrent=6", "--rounds=2"]
    result = saturation.run(parser.parse_args([str(reference_bundle), *flags]))
    assert len(result.rounds) == 2
    for speeds in [*result.rounds, result.median]:
        assert 0 < speeds.encoding_share < 1
    for speeds in result.rounds:
        ratio = speeds.served_tokens_per_s / speeds.forward_tokens_per_s
        assert speeds.ratio == pytest.approx(ratio)
    num_rows = sum(size.num_prompts * size.num_batches for size in result.batches.sizes)
    assert num_rows == pytest.approx(2 * 12)
    speeds_served = [each.served_tokens_per_s for each in result.rounds]
    assert min(speeds_served) <= result.batches.tokens_per_s <= max(speeds_served)


def test_server_that_turns_wrong_is_not_measured(
    reference_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_server, num_rounds = saturation.time_server, itertools.count()

    async def turn(
        address: str, messages: Sequence[bytes], num_concurrent: int
    ) -> tuple[list[pb.RecommendResponse], float]:
        replies, seconds = await time_server(address, messages, num_concurrent)
        if next(num_rounds) == 2:
            replies[3].items[0].item_id = replies[3].items[1].item_id
        return replies, seconds

    monkeypatch.setattr(saturation, "time_server", turn)
    parser = argparse.ArgumentParser()
    saturation.add_arguments(parser)
    flags = ["--requests=6", "--concurrent=3", "--rounds=2"]
    with pytest.raises(WrongAnswer, match="in ranking 3: 9 different items of 10"):
        saturation.run(parser.parse_args([str(reference_bundle), *flags]))
