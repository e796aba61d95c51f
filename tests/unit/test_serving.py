"""The served request without gRPC: permits, deadlines, generations and timings."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.generations import DEFECT, GPU_LOST, NOT_FINITE, SummingPipeline, make_generation

from engine import Interaction, Recommendation, RecommendRequest
from engine.config import AdmissionConfig
from engine.errors import (
    DeadlineExpired,
    EncodingFailed,
    GpuFailed,
    InvalidRequest,
    Overloaded,
    ShuttingDown,
)
from engine.live import Live
from engine.serving import Serving

MAX_IN_FLIGHT = 4


def ask(serving: Serving, *numbers: int, limit_s: float = 10) -> "asyncio.Task[Recommendation]":
    request = RecommendRequest([Interaction(str(number)) for number in numbers])
    received = time.monotonic()
    return asyncio.create_task(serving.recommend(request, received, received + limit_s))


async def occupy(serving: Serving, pipeline: SummingPipeline) -> "asyncio.Task[Recommendation]":
    """Hold the encoder with one request until the gate opens."""
    pipeline.gate.clear()
    pipeline.started.clear()
    task = ask(serving, 0)
    await asyncio.to_thread(pipeline.started.wait, 10)
    return task


def first_ids(answers: Sequence[Recommendation]) -> list[str]:
    return [answer.items[0].item_id for answer in answers]


@pytest.fixture
def pipeline() -> SummingPipeline:
    return SummingPipeline()


@pytest.fixture
async def serving(pipeline: SummingPipeline) -> AsyncIterator[Serving]:
    serving = Serving(Live(make_generation(pipeline)), AdmissionConfig(MAX_IN_FLIGHT))
    yield serving
    pipeline.gate.set()
    await serving.drain(5)
    await serving.close()


def test_serving_needs_no_grpc() -> None:
    code = (
        "import sys, engine.serving, engine.recommender;"
        "sys.exit(any(name.split('.')[0] in {'grpc', 'google'} for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_request_is_answered_from_its_generation(serving: Serving) -> None:
    answer = await ask(serving, 20, 3)
    assert [(item.item_id, item.title) for item in answer.items] == [("23", "Title 23")]
    assert (answer.model_version, answer.catalogue_version) == ("model-1", "catalogue-1")
    assert answer.num_used_interactions == 2


async def test_every_stage_is_timed_and_the_stages_make_the_total(
    serving: Serving, pipeline: SummingPipeline
) -> None:
    first = await occupy(serving, pipeline)
    waiting = ask(serving, 1)
    await asyncio.sleep(0.05)
    pipeline.gate.set()
    early, late = (answer.timings for answer in await asyncio.gather(first, waiting))
    assert early.queue_ms < 40 < late.queue_ms < late.total_ms < 5000
    assert (late.encode_ms, late.retrieve_ms) == (2.0, 1.0)
    assert 0 < late.render_ms < late.total_ms
    assert late.queue_ms + late.render_ms < late.total_ms


async def test_total_counts_from_the_arrival_of_the_message(serving: Serving) -> None:
    request = RecommendRequest([Interaction("1")])
    timings = (await serving.recommend(request, time.monotonic() - 1.0)).timings
    assert timings.total_ms > 1000 > timings.queue_ms + timings.render_ms


async def test_expired_request_never_reaches_the_encoder(
    serving: Serving, pipeline: SummingPipeline
) -> None:
    with pytest.raises(DeadlineExpired, match="had passed on arrival"):
        await ask(serving, 1, limit_s=0)
    first = await occupy(serving, pipeline)
    expiring = ask(serving, 2, limit_s=0.02)
    await asyncio.sleep(0.05)
    pipeline.gate.set()
    await first
    with pytest.raises(DeadlineExpired, match="in the queue"):
        await expiring
    assert pipeline.batches == [[0]]


async def test_permits_are_given_back_whatever_happens(
    serving: Serving, pipeline: SummingPipeline
) -> None:
    admitted = [await occupy(serving, pipeline), *(ask(serving, each) for each in (1, 2, 3))]
    await asyncio.sleep(0)
    assert serving.num_in_flight == MAX_IN_FLIGHT
    with pytest.raises(Overloaded):
        await ask(serving, 4)
    admitted[1].cancel()
    pipeline.gate.set()
    await asyncio.gather(*admitted, return_exceptions=True)
    for numbers, error in (((), InvalidRequest), ((DEFECT,), KeyError)):
        with pytest.raises(error):
            await ask(serving, *numbers)
    assert serving.num_in_flight == 0
    assert first_ids([await ask(serving, 5)]) == ["5"]


async def test_failed_encoding_hits_its_request_alone(
    serving: Serving, pipeline: SummingPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    first = await occupy(serving, pipeline)
    bad, good = ask(serving, NOT_FINITE), ask(serving, 3)
    await asyncio.sleep(0)
    pipeline.gate.set()
    assert first_ids([await first, await good]) == ["0", "3"]
    with pytest.raises(EncodingFailed, match="not finite"):
        await bad
    assert pipeline.batches == [[0], [NOT_FINITE, 3], [NOT_FINITE], [3]]
    assert not serving.stopping.is_set()
    assert caplog.messages.count("the encoder gave a user vector that is not finite") == 1


async def test_failed_device_stops_the_server_and_is_not_tried_again(
    serving: Serving, pipeline: SummingPipeline
) -> None:
    first = await occupy(serving, pipeline)
    waiting = [ask(serving, GPU_LOST), ask(serving, 3)]
    await asyncio.sleep(0)
    pipeline.gate.set()
    await first
    for task in waiting:
        with pytest.raises(GpuFailed):
            await task
    assert pipeline.batches == [[0], [GPU_LOST, 3]]
    assert serving.stopping.is_set()
    assert isinstance(serving.failure, GpuFailed)


async def test_drain_answers_the_admitted_and_refuses_the_new(
    serving: Serving, pipeline: SummingPipeline
) -> None:
    first = await occupy(serving, pipeline)
    draining = asyncio.create_task(serving.drain(10))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await ask(serving, 1)
    assert not draining.done()
    pipeline.gate.set()
    await draining
    assert first_ids([await first]) == ["0"]


async def test_query_rendered_on_one_generation_never_runs_on_another(
    serving: Serving, pipeline: SummingPipeline
) -> None:
    other = SummingPipeline()
    first = await occupy(serving, pipeline)
    before = [ask(serving, number) for number in (1, 2)]
    await asyncio.sleep(0)
    old = serving.live.swap(make_generation(other, number=2))
    after = ask(serving, 3)
    await asyncio.sleep(0)
    pipeline.gate.set()
    answers = await asyncio.gather(first, *before, after)
    assert first_ids(answers) == ["0", "1", "2", "3"]
    assert pipeline.batches == [[0], [1, 2]]
    assert other.batches == [[3]]
    versions = [(answer.model_version, answer.catalogue_version) for answer in answers]
    assert versions == [("model-1", "catalogue-1")] * 3 + [("model-2", "catalogue-2")]
    assert (old.number, serving.live.current.number) == (1, 2)
    assert (pipeline.num_closed, other.num_closed) == (0, 0)
    serving.live.close()
    assert (pipeline.num_closed, other.num_closed) == (0, 1)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.one_of(st.integers(1, 400), st.just("swap")), min_size=1, max_size=30))
def test_any_mix_of_swaps_and_requests_keeps_generations_apart(steps: list[int | str]) -> None:
    async def play() -> None:
        pipelines = [SummingPipeline()]
        serving = Serving(Live(make_generation(pipelines[0])), AdmissionConfig())
        expected: list[list[int]] = [[]]
        tasks = []
        for step in steps:
            if step == "swap":
                pipelines.append(SummingPipeline())
                expected.append([])
                serving.live.swap(make_generation(pipelines[-1], number=len(pipelines)))
            else:
                expected[-1].append(int(step))
                tasks.append((len(pipelines), step, ask(serving, int(step))))
            await asyncio.sleep(0)
        for number, step, task in tasks:
            answer = await task
            assert first_ids([answer]) == [str(step)]
            assert answer.model_version == f"model-{number}"
        encoded = [[each for batch in each.batches for each in batch] for each in pipelines]
        assert encoded == expected
        await serving.close()

    asyncio.run(play())
