"""Random and mutated messages to a real server: a status of the caller's, and no memory kept.

`pytest tests/service/test_mutated_messages.py --num-messages 100000` sends more than a test run.
"""

import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from llmsrec.v1 import recommender_pb2 as pb

ROOT = Path(__file__).parents[2]
RECOMMEND = "/llmsrec.v1.RecommenderService/Recommend"
NUM_AT_ONCE = 64
CALLERS_OWN = {"OK", "INVALID_ARGUMENT"}
KEPT_MB = 32
"""What an allocator may keep of the largest requests; a leak of a message each is more."""


@pytest.fixture
def num_messages(request: pytest.FixtureRequest) -> int:
    found: int = request.config.getoption("--num-messages")
    return found


@pytest.fixture
def server(reference_bundle: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "engine", "serve", str(reference_bundle)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        process.kill()


ODD_IDS = ["", "0", "401", "é" * 600, "\0", " 1", "1" * 2000]
ODD_TIMES = [10**9, -1, 0, 10**12, 2**63 - 1, -(2**63)]


def random_message(rng: random.Random) -> bytes:
    """Give a request that is mostly valid, or a mutation of it, or noise."""

    def item_id() -> str:
        return rng.choice(ODD_IDS) if rng.random() < 0.02 else str(rng.randint(1, 400))

    history = [
        pb.Interaction(
            item_id=item_id(), timestamp_ms=rng.choice(ODD_TIMES) if rng.random() < 0.01 else None
        )
        for _ in range(rng.choice([0, 1, 2, 3, 12, 40]))
    ]
    message = pb.RecommendRequest(
        history=history,
        k=rng.choice([None, None, None, 1, 10, 400, 401, 0, 2**32 - 1]),
        include_seen=rng.random() < 0.5,
        excluded_item_ids=[item_id() for _ in range(rng.choice([0, 1, 30]))],
    ).SerializeToString()
    match rng.randint(0, 4):
        case 0:
            return rng.randbytes(rng.randint(0, 64))
        case 1 if message:
            place = rng.randrange(len(message))
            return message[:place] + rng.randbytes(1) + message[place + 1 :]
        case 2:
            return message[: rng.randint(0, len(message))]
        case 3:
            return message + message[: rng.randint(0, len(message))]
    return message


async def send_all(address: str, seed: int, num_messages: int) -> Counter[str]:
    rng, statuses = random.Random(seed), Counter[str]()
    messages = (random_message(rng) for _ in range(num_messages))
    async with grpc.aio.insecure_channel(address) as channel:
        recommend: Any = channel.unary_unary(RECOMMEND)

        async def send_some() -> None:
            for message in messages:
                try:
                    reply = await recommend(message, timeout=60)
                    pb.RecommendResponse.FromString(reply)
                    statuses["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    statuses[error.code().name] += 1

        await asyncio.gather(*(send_some() for _ in range(NUM_AT_ONCE)))
    return statuses


def resident_mb(process: subprocess.Popen[str]) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("the server is gone")


async def test_any_message_is_answered_or_refused_and_none_is_kept(
    server: subprocess.Popen[str], num_messages: int
) -> None:
    assert server.stdout is not None
    address = server.stdout.readline().split()[1]
    warm_up = num_messages // 5
    statuses = await send_all(address, 1, warm_up)
    before = resident_mb(server)
    statuses += await send_all(address, 2, num_messages - warm_up)
    assert statuses.keys() == CALLERS_OWN
    assert min(statuses.values()) > num_messages // 20
    assert resident_mb(server) - before < KEPT_MB
