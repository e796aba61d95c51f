"""Micro-batches keep order and budget, and callers see nothing of them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from engine.batching.batcher import Batcher
from engine.batching.micro_batch import Limits
from engine.errors import DeadlineExpired, InvalidRequest, ShuttingDown
from engine.request import Prompt, Query, RankedItem, Recommendation

BAD_K = 666


class FakeEncoder:
    """Answers a query with its k; waits at a gate and remembers every batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, queries: Sequence[Query]) -> list[Recommendation]:
        self.batches.append([query.k for query in queries])
        self.started.set()
        assert self.gate.wait(timeout=10)
        if any(query.k == BAD_K for query in queries):
            raise InvalidRequest("k", "is bad")
        return [
            Recommendation(
                [RankedItem(str(query.k), "", 0.0)], "model", "catalogue", [], 1, 1, None
            )
            for query in queries
        ]

    async def wait_started(self) -> None:
        await asyncio.to_thread(self.started.wait, 10)


def make_query(k: int, num_tokens: int = 1) -> Query:
    tokens = np.zeros(num_tokens, np.int32)  # [T]
    return Query(Prompt(tokens, tokens), k, tokens[:0], [], 1, 0.0)


def ids(results: Sequence[Recommendation | BaseException]) -> list[str]:
    return [
        r.items[0].item_id if isinstance(r, Recommendation) else type(r).__name__ for r in results
    ]


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
async def batcher(encoder: FakeEncoder) -> AsyncIterator[Batcher]:
    batcher = Batcher(encoder.answer, Limits(max_tokens=12, max_prompts=3))
    yield batcher
    encoder.gate.set()
    await batcher.close()


async def submit_behind(
    batcher: Batcher, encoder: FakeEncoder, queries: Sequence[Query]
) -> list[Recommendation | BaseException]:
    """Submit while query 0 is being encoded, so that the rest queue up together."""
    encoder.gate.clear()
    first = asyncio.create_task(batcher.submit(make_query(0), None))
    await encoder.wait_started()
    waiting = [asyncio.create_task(batcher.submit(query, None)) for query in queries]
    await asyncio.sleep(0)
    encoder.gate.set()
    return await asyncio.gather(first, *waiting, return_exceptions=True)


async def test_single_query_is_answered(batcher: Batcher, encoder: FakeEncoder) -> None:
    assert ids([await batcher.submit(make_query(7), None)]) == ["7"]
    assert ids([await batcher.submit(make_query(8), None)]) == ["8"]
    assert encoder.batches == [[7], [8]]


async def test_each_caller_gets_its_own_answer(batcher: Batcher, encoder: FakeEncoder) -> None:
    results = await submit_behind(batcher, encoder, [make_query(k) for k in range(1, 9)])
    assert ids(results) == [str(k) for k in range(9)]


async def test_waiting_queries_are_batched_in_order_up_to_the_size(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    await submit_behind(batcher, encoder, [make_query(k) for k in range(1, 6)])
    assert encoder.batches == [[0], [1, 2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        pytest.param([6, 6, 1], [[1, 2], [3]], id="exactly the budget fits"),
        pytest.param([7, 6], [[1], [2]], id="one token more does not"),
        pytest.param([1, 1, 5], [[1, 2], [3]], id="rows are counted as long as the longest"),
        pytest.param([5, 1, 1], [[1, 2], [3]], id="whichever comes first"),
        pytest.param([50, 1], [[1], [2]], id="a single prompt always fits"),
    ],
)
async def test_token_budget_bounds_a_batch(
    batcher: Batcher, encoder: FakeEncoder, lengths: list[int], batches: list[list[int]]
) -> None:
    queries = [make_query(k, length) for k, length in enumerate(lengths, start=1)]
    await submit_behind(batcher, encoder, queries)
    assert encoder.batches == [[0], *batches]


async def test_one_batch_is_encoded_at_a_time(batcher: Batcher, encoder: FakeEncoder) -> None:
    encoder.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(make_query(0), None))]
    await encoder.wait_started()
    tasks.append(asyncio.create_task(batcher.submit(make_query(1), None)))
    await asyncio.sleep(0.05)
    assert encoder.batches == [[0]]
    encoder.gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("lengths", "too_few"),
    [
        pytest.param([1, 1, 1], 2, id="as many as a batch holds"),
        pytest.param([6, 6], 1, id="the whole token budget"),
        pytest.param([1, 5], 1, id="no room for another as long"),
        pytest.param([50], 0, id="one beyond the budget"),
    ],
)
async def test_second_batch_is_begun_early_only_once_it_is_full(
    encoder: FakeEncoder, lengths: list[int], too_few: int
) -> None:
    limits = Limits(max_tokens=12, max_prompts=3)
    batcher = Batcher(encoder.answer, limits, max_batches_in_flight=2)
    encoder.gate.clear()

    async def submit(k: int, num_tokens: int) -> "asyncio.Task[Recommendation]":
        task = asyncio.create_task(batcher.submit(make_query(k, num_tokens), None))
        await asyncio.sleep(0.02)
        return task

    tasks = [await submit(0, 1)]
    for k, num_tokens in enumerate(lengths, start=1):
        assert encoder.batches == [[0]]
        tasks.append(await submit(k, num_tokens))
    early = list(range(1, 1 + len(lengths)))
    assert len(early) == too_few + 1
    assert encoder.batches == [[0], early]
    tasks += [await submit(k, 50) for k in (8, 9)]
    assert encoder.batches == [[0], early]
    encoder.gate.set()
    assert ids(await asyncio.gather(*tasks)) == [str(k) for k in (0, *early, 8, 9)]
    assert encoder.batches == [[0], early, [8], [9]]
    await batcher.close()


async def test_third_batch_is_not_formed_before_its_turn(encoder: FakeEncoder) -> None:
    batcher = Batcher(encoder.answer, Limits(max_prompts=2), max_batches_in_flight=2)
    encoder.gate.clear()
    tasks = []
    for k in range(7):
        tasks.append(asyncio.create_task(batcher.submit(make_query(k), None)))
        await asyncio.sleep(0.02)
    assert encoder.batches == [[0], [1, 2]]
    tasks[4].cancel()
    await asyncio.sleep(0)
    encoder.gate.set()
    await asyncio.wait(tasks)
    assert encoder.batches[2:] == [[3, 5], [6]]
    await batcher.close()


async def test_cancelled_queries_do_not_fill_a_batch(encoder: FakeEncoder) -> None:
    batcher = Batcher(encoder.answer, Limits(max_prompts=3), max_batches_in_flight=2)
    encoder.gate.clear()
    tasks = []
    for k in range(3):
        tasks.append(asyncio.create_task(batcher.submit(make_query(k), None)))
        await asyncio.sleep(0.02)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(batcher.submit(make_query(3), None)))
    await asyncio.sleep(0.02)
    assert encoder.batches == [[0]]
    encoder.gate.set()
    await asyncio.wait(tasks)
    assert encoder.batches == [[0], [3]]
    await batcher.close()


async def test_few_queries_wait_for_the_last_batch_under_way() -> None:
    gates = {k: threading.Event() for k in (0, 1, 3)}
    batches = []

    def answer(queries: Sequence[Query]) -> list[Recommendation]:
        batches.append([query.k for query in queries])
        assert gates[queries[0].k].wait(timeout=10)
        return [Recommendation([], "model", "catalogue", [], 1, 1, None) for _ in queries]

    batcher = Batcher(answer, Limits(max_prompts=2), max_batches_in_flight=2)
    tasks = []
    for k in range(4):
        tasks.append(asyncio.create_task(batcher.submit(make_query(k), None)))
        await asyncio.sleep(0.02)
    assert batches == [[0], [1, 2]]
    gates[0].set()
    await tasks[0]
    await asyncio.sleep(0.05)
    assert batches == [[0], [1, 2]]
    gates[3].set()
    gates[1].set()
    await asyncio.gather(*tasks)
    assert batches == [[0], [1, 2], [3]]
    await batcher.close()


async def test_two_batches_in_flight_lose_no_query(encoder: FakeEncoder) -> None:
    limits = Limits(max_tokens=1000, max_prompts=4)
    batcher = Batcher(encoder.answer, limits, max_batches_in_flight=2)
    for burst in (1, 4, 5, 8, 9, 40, 3):
        found = await asyncio.gather(*(batcher.submit(make_query(k), None) for k in range(burst)))
        assert ids(found) == [str(k) for k in range(burst)]
    await batcher.close()


async def test_expired_query_never_reaches_the_encoder(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    first = asyncio.create_task(batcher.submit(make_query(0), None))
    await encoder.wait_started()
    expiring = asyncio.create_task(batcher.submit(make_query(1), time.monotonic() + 0.02))
    patient = asyncio.create_task(batcher.submit(make_query(2), time.monotonic() + 60))
    await asyncio.sleep(0.05)
    encoder.gate.set()
    assert ids([await first, await patient]) == ["0", "2"]
    with pytest.raises(DeadlineExpired):
        await expiring
    assert encoder.batches == [[0], [2]]


async def test_cancelled_query_never_reaches_the_encoder(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    first = asyncio.create_task(batcher.submit(make_query(0), None))
    await encoder.wait_started()
    waiting = [asyncio.create_task(batcher.submit(make_query(k), None)) for k in (1, 2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    encoder.gate.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert ids(results) == ["0", "CancelledError", "2"]
    assert encoder.batches == [[0], [2]]


async def test_caller_that_leaves_during_the_encode_disturbs_nobody(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    leaving = asyncio.create_task(batcher.submit(make_query(1), None))
    staying = asyncio.create_task(batcher.submit(make_query(2), None))
    await encoder.wait_started()
    leaving.cancel()
    encoder.gate.set()
    assert ids([await staying]) == ["2"]
    assert ids([await batcher.submit(make_query(3), None)]) == ["3"]


async def test_bad_query_does_not_spoil_its_neighbours(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    results = await submit_behind(batcher, encoder, [make_query(k) for k in (1, BAD_K, 3, 4)])
    assert ids(results) == ["0", "1", "InvalidRequest", "3", "4"]
    assert encoder.batches == [[0], [1, BAD_K, 3], [1], [BAD_K], [3], [4]]


async def test_retry_leaves_out_those_who_no_longer_wait(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(make_query(k), None)) for k in (1, BAD_K, 3)]
    await encoder.wait_started()
    tasks[0].cancel()
    encoder.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert ids(results) == ["CancelledError", "InvalidRequest", "3"]
    assert encoder.batches == [[1, BAD_K, 3], [BAD_K], [3]]


async def test_caller_that_leaves_a_failing_encode_disturbs_nobody(
    batcher: Batcher, encoder: FakeEncoder
) -> None:
    encoder.gate.clear()
    leaving = asyncio.create_task(batcher.submit(make_query(BAD_K), None))
    await encoder.wait_started()
    leaving.cancel()
    encoder.gate.set()
    assert ids([await batcher.submit(make_query(1), None)]) == ["1"]


async def test_wrong_number_of_answers_is_an_error_for_every_caller() -> None:
    batcher = Batcher(lambda _: [], Limits())
    with pytest.raises(ValueError, match="shorter"):
        await asyncio.wait_for(batcher.submit(make_query(1), None), timeout=5)
    await batcher.close()


async def test_time_in_the_queue_is_reported(batcher: Batcher, encoder: FakeEncoder) -> None:
    encoder.gate.clear()
    first = asyncio.create_task(batcher.submit(make_query(0), None))
    await encoder.wait_started()
    second = asyncio.create_task(batcher.submit(make_query(1), None))
    await asyncio.sleep(0.05)
    encoder.gate.set()
    assert (await first).timings.queue_ms < 40
    assert 40 < (await second).timings.queue_ms < 5000


async def test_close_answers_what_waits_and_refuses_what_comes(encoder: FakeEncoder) -> None:
    batcher = Batcher(encoder.answer, Limits(max_prompts=1))
    encoder.gate.clear()
    waiting = [asyncio.create_task(batcher.submit(make_query(k), None)) for k in range(3)]
    await encoder.wait_started()
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await batcher.submit(make_query(9), None)
    assert not closing.done()
    encoder.gate.set()
    await closing
    assert ids([task.result() for task in waiting]) == ["0", "1", "2"]
