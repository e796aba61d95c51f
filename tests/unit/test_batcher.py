"""Micro-batches keep order and budget, and callers see nothing of them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from engine.batching.batcher import Batcher
from engine.batching.run import Outcome
from engine.errors import DeadlineExpired, EncodingFailed, GpuFailed, InvalidRequest, ShuttingDown
from engine.pipelines.pipeline import Ranked
from engine.query import Prompt, Query, Search
from engine.request import MicroBatch
from engine.sizes import Size, SizeLimits

BAD_K = 666
LOST_K = 777


class FakeRunner:
    """Ranks a query's k first; waits at a gate and remembers every batch."""

    max_batches_in_flight = 1

    def __init__(self, limits: SizeLimits | None = None) -> None:
        self.limits = limits or SizeLimits(max_prompts=3, max_padded_tokens=12)
        self.batches: list[list[int]] = []
        self.sizes: list[Size] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        searches = [query.search for query in queries]
        self.batches.append([search.k for search in searches])
        self.sizes.append(size)
        self.started.set()
        assert self.gate.wait(timeout=10)
        if any(search.k == LOST_K for search in searches):
            raise GpuFailed("lost")
        if any(search.k == BAD_K for search in searches):
            raise InvalidRequest("k", "is bad")
        ranked = [(np.array([search.k], np.int32), np.zeros(1, np.float32)) for search in searches]
        return Ranked(np.zeros((len(queries), 1), np.float32), ranked, 2.0, 1.0)

    async def wait_started(self) -> None:
        await asyncio.to_thread(self.started.wait, 10)


def make_query(k: int, num_tokens: int = 1) -> Query:
    tokens = np.zeros(num_tokens, np.int32)  # [T]
    return Query(Prompt(tokens, tokens), Search(k, tokens[:0]))


def ids(results: Sequence[Outcome | BaseException]) -> list[str]:
    return [
        type(each).__name__ if isinstance(each, BaseException) else str(each.ranking[0][0])
        for each in results
    ]


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
async def batcher(runner: FakeRunner) -> AsyncIterator[Batcher]:
    batcher = Batcher()
    yield batcher
    runner.gate.set()
    await batcher.close()


async def submit_behind(
    batcher: Batcher, runner: FakeRunner, queries: Sequence[Query]
) -> list[Outcome | BaseException]:
    """Submit while query 0 is being encoded, so that the rest queue up together."""
    runner.gate.clear()
    first = asyncio.create_task(batcher.submit(runner, make_query(0), None))
    await runner.wait_started()
    waiting = [asyncio.create_task(batcher.submit(runner, query, None)) for query in queries]
    await asyncio.sleep(0)
    runner.gate.set()
    return await asyncio.gather(first, *waiting, return_exceptions=True)


async def test_single_query_is_answered(batcher: Batcher, runner: FakeRunner) -> None:
    assert ids([await batcher.submit(runner, make_query(7), None)]) == ["7"]
    assert ids([await batcher.submit(runner, make_query(8), None)]) == ["8"]
    assert runner.batches == [[7], [8]]


async def test_each_caller_gets_its_own_answer(batcher: Batcher, runner: FakeRunner) -> None:
    results = await submit_behind(batcher, runner, [make_query(k) for k in range(1, 9)])
    assert ids(results) == [str(k) for k in range(9)]


async def test_waiting_queries_are_batched_in_order_up_to_the_size(
    batcher: Batcher, runner: FakeRunner
) -> None:
    await submit_behind(batcher, runner, [make_query(k) for k in range(1, 6)])
    assert runner.batches == [[0], [1, 2, 3], [4, 5]]


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
    batcher: Batcher, runner: FakeRunner, lengths: list[int], batches: list[list[int]]
) -> None:
    queries = [make_query(k, length) for k, length in enumerate(lengths, start=1)]
    await submit_behind(batcher, runner, queries)
    assert runner.batches == [[0], *batches]


async def test_one_batch_is_encoded_at_a_time(batcher: Batcher, runner: FakeRunner) -> None:
    runner.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(runner, make_query(0), None))]
    await runner.wait_started()
    tasks.append(asyncio.create_task(batcher.submit(runner, make_query(1), None)))
    await asyncio.sleep(0.05)
    assert runner.batches == [[0]]
    runner.gate.set()
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
    runner: FakeRunner, lengths: list[int], too_few: int
) -> None:
    batcher, runner.max_batches_in_flight = Batcher(), 2
    runner.gate.clear()

    async def submit(k: int, num_tokens: int) -> "asyncio.Task[Outcome]":
        task = asyncio.create_task(batcher.submit(runner, make_query(k, num_tokens), None))
        await asyncio.sleep(0.02)
        return task

    tasks = [await submit(0, 1)]
    for k, num_tokens in enumerate(lengths, start=1):
        assert runner.batches == [[0]]
        tasks.append(await submit(k, num_tokens))
    early = list(range(1, 1 + len(lengths)))
    assert len(early) == too_few + 1
    assert runner.batches == [[0], early]
    tasks += [await submit(k, 50) for k in (8, 9)]
    assert runner.batches == [[0], early]
    runner.gate.set()
    assert ids(await asyncio.gather(*tasks)) == [str(k) for k in (0, *early, 8, 9)]
    assert runner.batches == [[0], early, [8], [9]]
    await batcher.close()


async def test_third_batch_is_not_formed_before_its_turn() -> None:
    batcher, runner = Batcher(), FakeRunner(SizeLimits(max_prompts=2))
    runner.max_batches_in_flight = 2
    runner.gate.clear()
    tasks = []
    for k in range(7):
        tasks.append(asyncio.create_task(batcher.submit(runner, make_query(k), None)))
        await asyncio.sleep(0.02)
    assert runner.batches == [[0], [1, 2]]
    tasks[4].cancel()
    await asyncio.sleep(0)
    runner.gate.set()
    await asyncio.wait(tasks)
    assert runner.batches[2:] == [[3, 5], [6]]
    await batcher.close()


async def test_cancelled_queries_do_not_fill_a_batch() -> None:
    batcher, runner = Batcher(), FakeRunner(SizeLimits(max_prompts=3))
    runner.max_batches_in_flight = 2
    runner.gate.clear()
    tasks = []
    for k in range(3):
        tasks.append(asyncio.create_task(batcher.submit(runner, make_query(k), None)))
        await asyncio.sleep(0.02)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(batcher.submit(runner, make_query(3), None)))
    await asyncio.sleep(0.02)
    assert runner.batches == [[0]]
    runner.gate.set()
    await asyncio.wait(tasks)
    assert runner.batches == [[0], [3]]
    await batcher.close()


async def test_few_queries_wait_for_the_last_batch_under_way() -> None:
    gates = {k: threading.Event() for k in (0, 1, 3)}

    class GatedRunner(FakeRunner):
        def run(self, queries: Sequence[Query], size: Size) -> Ranked:
            ranked = super().run(queries, size)
            assert gates[queries[0].search.k].wait(timeout=10)
            return ranked

    batcher, runner = Batcher(), GatedRunner(SizeLimits(max_prompts=2))
    runner.max_batches_in_flight = 2
    tasks = []
    for k in range(4):
        tasks.append(asyncio.create_task(batcher.submit(runner, make_query(k), None)))
        await asyncio.sleep(0.02)
    assert runner.batches == [[0], [1, 2]]
    gates[0].set()
    await tasks[0]
    await asyncio.sleep(0.05)
    assert runner.batches == [[0], [1, 2]]
    gates[3].set()
    gates[1].set()
    await asyncio.gather(*tasks)
    assert runner.batches == [[0], [1, 2], [3]]
    await batcher.close()


async def test_two_batches_in_flight_lose_no_query() -> None:
    batcher = Batcher()
    runner = FakeRunner(SizeLimits(max_prompts=4, max_padded_tokens=1000))
    runner.max_batches_in_flight = 2
    for burst in (1, 4, 5, 8, 9, 40, 3):
        found = await asyncio.gather(
            *(batcher.submit(runner, make_query(k), None) for k in range(burst))
        )
        assert ids(found) == [str(k) for k in range(burst)]
    await batcher.close()


async def test_expired_query_never_reaches_the_encoder(
    batcher: Batcher, runner: FakeRunner
) -> None:
    runner.gate.clear()
    first = asyncio.create_task(batcher.submit(runner, make_query(0), None))
    await runner.wait_started()
    expiring = asyncio.create_task(batcher.submit(runner, make_query(1), time.monotonic() + 0.02))
    patient = asyncio.create_task(batcher.submit(runner, make_query(2), time.monotonic() + 60))
    await asyncio.sleep(0.05)
    runner.gate.set()
    assert ids([await first, await patient]) == ["0", "2"]
    with pytest.raises(DeadlineExpired):
        await expiring
    assert runner.batches == [[0], [2]]


async def test_cancelled_query_never_reaches_the_encoder(
    batcher: Batcher, runner: FakeRunner
) -> None:
    runner.gate.clear()
    first = asyncio.create_task(batcher.submit(runner, make_query(0), None))
    await runner.wait_started()
    waiting = [asyncio.create_task(batcher.submit(runner, make_query(k), None)) for k in (1, 2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    runner.gate.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert ids(results) == ["0", "CancelledError", "2"]
    assert runner.batches == [[0], [2]]


async def test_caller_that_leaves_during_the_encode_disturbs_nobody(
    batcher: Batcher, runner: FakeRunner
) -> None:
    runner.gate.clear()
    leaving = asyncio.create_task(batcher.submit(runner, make_query(1), None))
    staying = asyncio.create_task(batcher.submit(runner, make_query(2), None))
    await runner.wait_started()
    leaving.cancel()
    runner.gate.set()
    assert ids([await staying]) == ["2"]
    assert ids([await batcher.submit(runner, make_query(3), None)]) == ["3"]


async def test_bad_query_does_not_spoil_its_neighbours(
    batcher: Batcher, runner: FakeRunner
) -> None:
    results = await submit_behind(batcher, runner, [make_query(k) for k in (1, BAD_K, 3, 4)])
    assert ids(results) == ["0", "1", "InvalidRequest", "3", "4"]
    assert runner.batches == [[0], [1, BAD_K, 3], [1], [BAD_K], [3], [4]]


async def test_retry_leaves_out_those_who_no_longer_wait(
    batcher: Batcher, runner: FakeRunner
) -> None:
    runner.gate.clear()
    tasks = [
        asyncio.create_task(batcher.submit(runner, make_query(k), None)) for k in (1, BAD_K, 3)
    ]
    await runner.wait_started()
    tasks[0].cancel()
    runner.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert ids(results) == ["CancelledError", "InvalidRequest", "3"]
    assert runner.batches == [[1, BAD_K, 3], [BAD_K], [3]]


async def test_caller_that_leaves_a_failing_encode_disturbs_nobody(
    batcher: Batcher, runner: FakeRunner
) -> None:
    runner.gate.clear()
    leaving = asyncio.create_task(batcher.submit(runner, make_query(BAD_K), None))
    await runner.wait_started()
    leaving.cancel()
    runner.gate.set()
    assert ids([await batcher.submit(runner, make_query(1), None)]) == ["1"]


async def test_wrong_number_of_answers_is_an_error_for_every_caller() -> None:
    class ForgetfulRunner(FakeRunner):
        def run(self, queries: Sequence[Query], size: Size) -> Ranked:
            return super().run(queries, size)._replace(rankings=[])

    batcher = Batcher()
    submitting = batcher.submit(ForgetfulRunner(), make_query(1), None)
    with pytest.raises(ValueError, match="shorter"):
        await asyncio.wait_for(submitting, timeout=5)
    await batcher.close()


async def test_failed_device_is_not_tried_again_entry_by_entry(
    batcher: Batcher, runner: FakeRunner
) -> None:
    results = await submit_behind(batcher, runner, [make_query(k) for k in (1, LOST_K, 3, 4)])
    assert ids(results) == ["0", "GpuFailed", "GpuFailed", "GpuFailed", "4"]
    assert runner.batches == [[0], [1, LOST_K, 3], [4]]


async def test_outcome_tells_when_its_batch_began_and_what_it_was(
    batcher: Batcher, runner: FakeRunner
) -> None:
    submitted = time.monotonic()
    first, *rest = await submit_behind(batcher, runner, [make_query(1, 2), make_query(2, 3)])
    assert isinstance(first, Outcome)
    assert submitted < first.begun < time.monotonic()
    for outcome in rest:
        assert isinstance(outcome, Outcome)
        assert first.begun < outcome.begun < time.monotonic()
        assert outcome.micro_batch == MicroBatch(num_prompts=2, longest_prompt_tokens=3)
        assert (outcome.encode_ms, outcome.retrieve_ms) == (2.0, 1.0)


async def test_batch_runs_in_the_smallest_ready_size_that_holds_it() -> None:
    ready = [Size(1, 4), Size(2, 4), Size(4, 4), Size(2, 8)]
    runner = FakeRunner(SizeLimits(max_prompts=4, max_padded_tokens=16, ready=ready))
    batcher = Batcher()
    queries = [make_query(1, 3), make_query(2, 4), make_query(3, 2), make_query(4, 8)]
    results = await submit_behind(batcher, runner, queries)
    assert ids(results) == ["0", "1", "2", "3", "4"]
    told = [each.micro_batch for each in results if isinstance(each, Outcome)]
    assert told == [MicroBatch(1, 1), *[MicroBatch(3, 4)] * 3, MicroBatch(1, 8)]
    assert runner.batches == [[0], [1, 2, 3], [4]]
    assert runner.sizes == [Size(1, 4), Size(4, 4), Size(2, 8)]
    await batcher.close()


async def test_query_for_another_runner_ends_the_batch_before_it() -> None:
    old, new, batcher = FakeRunner(), FakeRunner(), Batcher()
    old.max_batches_in_flight = 2
    old.gate.clear()
    tasks = []
    for k, runner in ((0, old), (1, old), (2, new)):
        assert old.batches in ([], [[0]])
        tasks.append(asyncio.create_task(batcher.submit(runner, make_query(k), None)))
        await asyncio.sleep(0.02)
    assert old.batches == [[0], [1]]
    old.gate.set()
    assert ids(await asyncio.gather(*tasks)) == ["0", "1", "2"]
    await batcher.close()


async def test_full_batch_waits_where_the_runner_allows_one_at_a_time(runner: FakeRunner) -> None:
    batcher = Batcher()
    runner.gate.clear()
    tasks = []
    for k in range(5):
        tasks.append(asyncio.create_task(batcher.submit(runner, make_query(k), None)))
        await asyncio.sleep(0.02)
    assert runner.batches == [[0]]
    runner.gate.set()
    await asyncio.gather(*tasks)
    assert runner.batches == [[0], [1, 2, 3], [4]]
    await batcher.close()


async def test_swap_to_a_runner_of_one_batch_at_a_time_is_heeded() -> None:
    old, new, batcher = FakeRunner(), FakeRunner(), Batcher()
    old.max_batches_in_flight = 2
    old.gate.clear()
    new.gate.clear()
    order = [(0, old), (1, old), (2, new), (3, new), (4, new), (5, new), (6, new)]
    tasks = []
    for k, runner in order:
        tasks.append(asyncio.create_task(batcher.submit(runner, make_query(k), None)))
        await asyncio.sleep(0.02)
    assert old.batches == [[0], [1]]
    old.gate.set()
    await asyncio.gather(*tasks[:2])
    await asyncio.sleep(0.05)
    assert new.batches == [[2, 3, 4]]
    new.gate.set()
    await asyncio.gather(*tasks)
    assert new.batches == [[2, 3, 4], [5, 6]]
    await batcher.close()


async def test_device_that_fails_during_a_retry_fails_the_rest_at_once(batcher: Batcher) -> None:
    class FailingLater(FakeRunner):
        def run(self, queries: Sequence[Query], size: Size) -> Ranked:
            if self.batches == [[0], [1, 2, 3], [1]]:
                raise GpuFailed("lost")
            ranked = super().run(queries, size)
            if len(queries) > 1:
                raise EncodingFailed("together")
            return ranked

    failing = FailingLater()
    results = await submit_behind(batcher, failing, [make_query(k) for k in (1, 2, 3)])
    assert ids(results) == ["0", "1", "GpuFailed", "GpuFailed"]
    assert failing.batches == [[0], [1, 2, 3], [1]]
    assert failing.sizes == [Size(1, 1), Size(3, 1), Size(1, 1)]


async def test_prompt_that_no_size_holds_fails_alone() -> None:
    limits = SizeLimits(max_prompts=4, max_padded_tokens=16, ready=[Size(4, 4)])
    batcher, runner = Batcher(), FakeRunner(limits)
    results = await submit_behind(batcher, runner, [make_query(k, 4 + k % 2) for k in (1, 2, 4)])
    assert ids(results) == ["0", "EncodingFailed", "2", "4"]
    with pytest.raises(EncodingFailed, match="no size of the bundle holds a prompt of 5 tokens"):
        await batcher.submit(runner, make_query(1, 5), None)
    await batcher.close()


async def test_batch_never_mixes_runners_and_keeps_the_order_of_arrival() -> None:
    old, new, batcher = FakeRunner(), FakeRunner(), Batcher()
    old.gate.clear()
    first = asyncio.create_task(batcher.submit(old, make_query(0), None))
    await old.wait_started()
    order = [(1, old), (2, new), (3, new), (4, old), (5, old), (6, old), (7, old)]
    waiting = [asyncio.create_task(batcher.submit(to, make_query(k), None)) for k, to in order]
    await asyncio.sleep(0)
    old.gate.set()
    results = await asyncio.gather(first, *waiting)
    assert ids(results) == ["0", "1", "2", "3", "4", "5", "6", "7"]
    assert old.batches == [[0], [1], [4, 5, 6], [7]]
    assert new.batches == [[2, 3]]
    await batcher.close()


async def test_close_answers_what_waits_and_refuses_what_comes() -> None:
    batcher, runner = Batcher(), FakeRunner(SizeLimits(max_prompts=1))
    runner.gate.clear()
    waiting = [asyncio.create_task(batcher.submit(runner, make_query(k), None)) for k in range(3)]
    await runner.wait_started()
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await batcher.submit(runner, make_query(9), None)
    assert not closing.done()
    runner.gate.set()
    await closing
    assert ids([task.result() for task in waiting]) == ["0", "1", "2"]
