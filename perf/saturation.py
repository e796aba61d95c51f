"""Weighs the tokens per second of a saturated server against those of back-to-back forwards.

Each round drives a real server with `--concurrent` requests always in flight, and then runs the
encoder alone, in this process, on the very micro-batches that the answers tell of. So the ratio is
what serving costs beside the encoder: gRPC, forming batches, retrieval, replies. The last batches
of a round find the queue running dry; more `--requests` make less of it.

The client takes its cycles from the same cores, so it is as light as it can be: one event loop,
requests serialised before the clock starts, replies parsed after it stops.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import grpc
import msgspec
from rich.console import Console
from rich.progress import track

from engine import Recommender
from engine.bundle.opened import open_bundle
from engine.config import Config
from engine.encoders.encoder import Encoder
from engine.errors import CallFailed
from engine.pipelines.open import open_ranker
from engine.request import Prompt
from engine.rpc.wire import decode_request
from llmsrec.v1 import recommender_pb2 as pb
from perf.load.batches import Batches, BatchTally
from perf.load.client import METHOD, UNLIMITED
from perf.load.settings import Drawn, Mix, Pace
from perf.load.workload import draw_plan
from perf.server_process import serving

PAUSE_S = 0.2
"""Before each timing, so that none pays for threads that another left spinning."""


class Speeds(msgspec.Struct, frozen=True):
    served_tokens_per_s: float
    forward_tokens_per_s: float
    ratio: float
    encoding_share: float
    """Of the server's time, by its own clock; the rest lies between two forwards."""


class Result(msgspec.Struct, frozen=True):
    num_requests: int
    """Of each round."""
    num_concurrent: int
    median: Speeds
    batches: Batches
    rounds: list[Speeds]


class Case(NamedTuple):
    messages: Sequence[bytes]
    prompts: Sequence[Prompt]
    """What the server renders of each message."""
    num_concurrent: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    add = parser.add_argument
    add("--requests", type=int, default=96, help="of each round (default: 96)")
    add("--concurrent", type=int, default=48, help="requests in flight (default: 48)")
    add("--rounds", type=int, default=5, help="besides one to warm up (default: 5)")


def run(arguments: argparse.Namespace) -> Result:
    """Time both sides in turn.

    Raises:
        CallFailed: the server refused a request.
    """
    config, bundle = Config(), open_bundle(arguments.bundle)
    ranker = open_ranker(bundle, config)
    tally, rounds = BatchTally(), []
    numbers = track(range(arguments.rounds + 1), "rounds", console=Console(stderr=True))
    with (
        closing(Recommender(bundle, ranker, config)) as recommender,
        serving(arguments.bundle) as server,
    ):
        messages = draw_messages(bundle.item_ids, arguments.requests)
        prompts = [render(recommender, message) for message in messages]
        case = Case(messages, prompts, arguments.concurrent)
        for number in numbers:
            replies, speeds = time_round(server.address, ranker, case)
            if number > 0:
                rounds.append(speeds)
                count_rows(tally, replies)
    num_tokens = sum(len(prompt) for prompt in prompts)
    batches = tally.summarise(sum(num_tokens / each.served_tokens_per_s for each in rounds))
    assert batches is not None
    columns = zip(*map(msgspec.structs.astuple, rounds), strict=True)
    return Result(
        num_requests=arguments.requests,
        num_concurrent=arguments.concurrent,
        median=Speeds(*map(statistics.median, columns)),
        batches=batches,
        rounds=rounds,
    )


def time_round(
    address: str, encoder: Encoder, case: Case
) -> tuple[list[pb.RecommendResponse], Speeds]:
    replies, served_s = asyncio.run(time_server(address, case.messages, case.num_concurrent))
    batches = group_by_batch(replies)
    forward_s = time_forwards(encoder, case.prompts, batches)
    encoding_s = sum(replies[batch[0]].timings.encode_ms for batch in batches) / 1e3
    num_tokens = sum(len(prompt) for prompt in case.prompts)
    speeds = Speeds(
        served_tokens_per_s=num_tokens / served_s,
        forward_tokens_per_s=num_tokens / forward_s,
        ratio=forward_s / served_s,
        encoding_share=encoding_s / served_s,
    )
    return replies, speeds


def draw_messages(item_ids: Sequence[str], num_requests: int) -> list[bytes]:
    """Draw requests as `perf load` does by default."""
    pace = Pace(rate=num_requests, arrivals="constant", warm_up_s=0.0, duration_s=1.0)
    plan = draw_plan(Drawn(pace=pace, mix=Mix()), item_ids)
    return [plan.messages[row] for row in plan.message_rows.tolist()]


def render(recommender: Recommender, message: bytes) -> Prompt:
    request = decode_request(pb.RecommendRequest.FromString(message))
    return recommender.render(request).prompt


async def time_server(
    address: str, messages: Sequence[bytes], num_concurrent: int
) -> tuple[list[pb.RecommendResponse], float]:
    """Ask for all answers, so many at a time; give them in order, and the seconds it took."""
    replies = [b""] * len(messages)
    waiting = iter(enumerate(messages))

    async def keep_asking(channel: grpc.aio.Channel) -> None:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        for place, message in waiting:
            replies[place] = await call(message)

    async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
        await channel.channel_ready()
        await asyncio.sleep(PAUSE_S)
        started = time.perf_counter()
        asking = [asyncio.create_task(keep_asking(channel)) for _ in range(num_concurrent)]
        try:
            await asyncio.gather(*asking)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code().name, f"{address}: {error.details()}") from error
        seconds = time.perf_counter() - started
    return [pb.RecommendResponse.FromString(reply) for reply in replies], seconds


def group_by_batch(replies: Sequence[pb.RecommendResponse]) -> list[list[int]]:
    """Give the places of the replies of each micro-batch: they share the time of one forward."""
    places: dict[tuple[float, float, int, int], list[int]] = {}
    for place, reply in enumerate(replies):
        timings, batch = reply.timings, reply.micro_batch
        size = (batch.num_prompts, batch.longest_prompt_tokens)
        key = (timings.encode_ms, timings.retrieve_ms, *size)
        places.setdefault(key, []).append(place)
    for (*_, num_prompts, _), members in places.items():
        assert len(members) == num_prompts, "replies of two micro-batches cannot be told apart"
    return list(places.values())


def time_forwards(
    encoder: Encoder, prompts: Sequence[Prompt], batches: Sequence[Sequence[int]]
) -> float:
    """Give the seconds that the micro-batches take, one right after the other."""
    gathered = [[prompts[place] for place in batch] for batch in batches]
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    for batch in gathered:
        encoder.encode(batch, "user_vector")
    return time.perf_counter() - started


def count_rows(tally: BatchTally, replies: Sequence[pb.RecommendResponse]) -> None:
    for reply in replies:
        batch = reply.micro_batch
        tally.add(batch.num_prompts, reply.num_prompt_tokens, batch.longest_prompt_tokens)
