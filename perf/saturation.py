"""Weighs the tokens per second of a saturated server against those of back-to-back forwards.

Each round drives a real server with `--concurrent` requests always in flight, and then runs the
encoder alone, in this process, on the very micro-batches that the answers tell of. So the ratio is
what serving costs beside the encoder: gRPC, forming batches, retrieval, replies. The last batches
of a round find the queue running dry; more `--requests` make less of it. Each answer must be the
ranking by the vector that its forward gave.

The client takes its cycles from the same cores, so it is as light as it can be: one event loop,
requests serialised before the clock starts, replies parsed after it stops.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import grpc
import msgspec
import numpy as np

from engine.bundle.opened import open_bundle
from engine.errors import CallFailed
from engine.query import Query
from engine.rpc.target import parse_target
from llmsrec.progress import track
from llmsrec.v1 import recommender_pb2 as pb
from perf.answers import Vectors, require_rankings, tolerance_of
from perf.command_line import count
from perf.engine_access import Encode, Engine, ranked_items, read_message
from perf.load.batches import Batches, summarise_batches
from perf.load.client import METHOD
from perf.load.drawn import draw_schedule
from perf.load.options import LoadOptions
from perf.server_process import serving
from perf.timing import PAUSE_S


class Speeds(msgspec.Struct, frozen=True):
    served_tokens_per_s: float
    forward_tokens_per_s: float
    ratio: float
    encoding_share: float
    """The share of the server's time, by its own clock, that does not lie between two forwards."""


class Saturation(msgspec.Struct, frozen=True):
    num_requests: int
    """The requests of each round."""
    num_concurrent: int
    median: Speeds
    batches: Batches
    rounds: list[Speeds]


class Round(NamedTuple):
    replies: list[pb.RecommendResponse]
    served_s: float
    batches: list[list[int]]
    """The places of the replies of each micro-batch."""
    vectors: Vectors  # [R, D], in the order of the replies
    forward_s: float

    def speeds(self, num_tokens: int) -> Speeds:
        encoding_s = sum(self.replies[batch[0]].timings.encode_ms for batch in self.batches) / 1e3
        return Speeds(
            served_tokens_per_s=num_tokens / self.served_s,
            forward_tokens_per_s=num_tokens / self.forward_s,
            ratio=self.forward_s / self.served_s,
            encoding_share=encoding_s / self.served_s,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="what to serve")
    add("--requests", type=count, default=96, help="of each round")
    add("--concurrent", type=count, default=48, help="requests in flight")
    add("--rounds", type=count, default=5, help="besides one to warm up")


def run(arguments: argparse.Namespace) -> Saturation:
    """Time both sides in turn.

    Raises:
        CallFailed: the server refused a request.
        WrongAnswer: it answered one otherwise than by the vector of its forward.
    """
    bundle = open_bundle(arguments.bundle)
    replies: list[pb.RecommendResponse] = []
    speeds = []
    with closing(Engine(bundle)) as engine, serving(arguments.bundle) as server:
        messages = draw_messages(bundle.catalogue.item_ids, arguments.requests)
        queries = [engine.render(read_message(message)) for message in messages]
        num_tokens = sum(len(query.prompt) for query in queries)
        rounds = _time_rounds(server.address, engine, messages, queries, arguments)
        for number, each in enumerate(rounds):
            require_answers(each, engine, queries)
            if number > 0:
                speeds.append(each.speeds(num_tokens))
                replies += each.replies
    served_s = sum(num_tokens / each.served_tokens_per_s for each in speeds)
    batches = summarise_batches(replies, served_s)
    assert batches is not None
    columns = zip(*map(msgspec.structs.astuple, speeds), strict=True)
    return Saturation(
        num_requests=arguments.requests,
        num_concurrent=arguments.concurrent,
        median=Speeds(*map(statistics.median, columns)),
        batches=batches,
        rounds=speeds,
    )


def _time_rounds(
    address: str,
    engine: Engine,
    messages: Sequence[bytes],
    queries: Sequence[Query],
    arguments: argparse.Namespace,
) -> Iterator[Round]:
    for _ in track(range(arguments.rounds + 1), "rounds"):
        replies, served_s = asyncio.run(time_server(address, messages, arguments.concurrent))
        batches = group_by_batch(replies)
        vectors, forward_s = time_forwards(engine.encode, queries, batches)
        yield Round(replies, served_s, batches, vectors, forward_s)


def require_answers(each: Round, engine: Engine, queries: Sequence[Query]) -> None:
    require_rankings(
        "the saturated server",
        [ranked_items(reply) for reply in each.replies],
        engine.rank(queries, each.vectors),
        tolerance_of(engine.bundle.manifest.encoder.precision),
    )


def draw_messages(item_ids: Sequence[str], num_requests: int) -> list[bytes]:
    """Draw requests as `perf load` does by default."""
    options = LoadOptions(rate=num_requests, arrivals="constant", warm_up_s=0.0, duration_s=1.0)
    schedule = draw_schedule(options, item_ids)
    return [schedule.messages[row] for row in schedule.message_rows.tolist()]


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

    target = parse_target(address)
    async with grpc.aio.insecure_channel(target.name, options=target.options) as channel:
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
    encode: Encode, queries: Sequence[Query], batches: Sequence[Sequence[int]]
) -> tuple[Vectors, float]:
    """Encode the micro-batches right after each other; give the vectors in the queries' order."""
    gathered = [[queries[place].prompt for place in batch] for batch in batches]
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    encoded = [encode(batch) for batch in gathered]
    seconds = time.perf_counter() - started
    vectors = np.concatenate(encoded)  # [R, D], in the order of the micro-batches
    return vectors[np.argsort(np.concatenate(batches))], seconds
