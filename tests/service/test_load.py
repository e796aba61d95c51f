"""Load on real servers: a stall shows in every request that it delayed, a void run says so."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest

from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import (
    RecommenderServiceServicer,
    RecommenderServiceStub,
    add_RecommenderServiceServicer_to_server,
)
from perf.__main__ import main
from perf.load import client
from perf.load.drawn import draw_schedule
from perf.load.measure import measure
from perf.load.options import Lengths, LoadOptions
from perf.load.result import LoadResult, summarise
from perf.server_process import serving

STALL_S = 2.0
RATE = 50
NUM_REQUESTS = 150


class StallingService(RecommenderServiceServicer):
    """Answers one request at a time, at once, but the `stalled_request`-th after a pause."""

    def __init__(self, stalled_request: int) -> None:
        self._stalled_request = stalled_request
        self._num_requests = 0

    def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: grpc.ServicerContext
    ) -> pb.RecommendResponse:
        self._num_requests += 1
        if self._num_requests == self._stalled_request:
            time.sleep(STALL_S)
        if request.k == 13:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        return pb.RecommendResponse(timings=pb.StageTimings(encode_ms=0.25, total_ms=0.5))


@contextmanager
def served(service: RecommenderServiceServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    add_RecommenderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def stalling_server(stalled_request: int) -> AbstractContextManager[str]:
    return served(StallingService(stalled_request))


def drive(address: str, **given: Any) -> LoadResult:  # noqa: ANN401
    lengths = (Lengths(1, 3, 1.0),)
    usual = LoadOptions(
        rate=RATE, arrivals="constant", warm_up_s=0.2, num_processes=1, lengths=lengths
    )
    options = msgspec.structs.replace(usual, **given)
    schedule = draw_schedule(options, ["1", "2"])
    return summarise(schedule, measure(address, schedule, options), options)


def time_in_closed_loop(address: str) -> list[float]:
    """Send each request when the one before it is answered, as a naive benchmark does."""
    times_ms = []
    with grpc.insecure_channel(address) as channel:
        stub = RecommenderServiceStub(channel)
        for _ in range(NUM_REQUESTS):
            started = time.monotonic()
            stub.Recommend(pb.RecommendRequest())
            times_ms.append((time.monotonic() - started) * 1e3)
    return times_ms


def test_stall_shows_in_every_request_that_it_delayed() -> None:
    """150 requests at 50/s: a pause of 2 s delays 100 of them, by 2 s down to nothing."""
    with stalling_server(stalled_request=25) as address:
        options = {"num_processes": 2, "objective_ms": 500.0}
        result = drive(address, duration_s=NUM_REQUESTS / RATE, **options)
    with stalling_server(stalled_request=25) as address:
        closed_ms = time_in_closed_loop(address)
    assert result.num_answers == result.num_requests == NUM_REQUESTS
    assert result.send_lag is not None
    assert result.send_lag.p99_ms < 500  # the stall did not slow the clients down
    assert result.achieved_rate > 0.9 * RATE
    assert result.latency is not None
    assert result.latency.p50_ms > 500
    assert result.latency.p90_ms > 1500
    assert result.latency.p99_ms > 1900
    assert result.latency.max_ms > 1950
    assert result.goodput.share < 0.6
    slow = [moment.latency.max_ms > 500 for moment in result.moments if moment.latency]
    assert 6 <= sum(slow) <= 12  # of 15 slots of 0.2 s
    assert result.stages["encode_ms"].p50_ms == pytest.approx(0.25, rel=1e-2)
    assert result.batches is None  # this server does not tell
    # The same stall in a closed loop: one slow request, and a p99 that knows nothing of it.
    assert max(closed_ms) > 1950
    assert np.percentile(closed_ms, 99, method="lower") < 500
    assert sum(time_ms > 500 for time_ms in closed_ms) == 1


def test_failures_are_counted_by_status_and_not_as_answers() -> None:
    with stalling_server(stalled_request=-1) as address:
        result = drive(address, duration_s=0.3, k=13)
    assert result.failures == {"RESOURCE_EXHAUSTED": NUM_REQUESTS // 10}
    assert (result.num_answers, result.latency, result.goodput.share) == (0, None, 0)


def test_deadline_ends_a_request_that_the_server_forgot() -> None:
    with stalling_server(stalled_request=15) as address:
        result = drive(address, deadline_ms=300.0, duration_s=0.3)
    assert result.num_answers + result.failures["DEADLINE_EXCEEDED"] == result.num_requests
    assert result.failures["DEADLINE_EXCEEDED"] >= 7


async def test_latency_counts_from_the_intended_time_even_where_the_client_is_late() -> None:
    options = LoadOptions(rate=RATE, arrivals="constant", warm_up_s=0.0, duration_s=0.2)
    schedule = draw_schedule(options, ["1"])
    mine, theirs = Pipe()
    mine.send(time.monotonic() - 1.0)
    with stalling_server(stalled_request=-1) as address:
        sent = await client.ask_all(client.ClientTask(address, schedule, 5000.0), theirs)
    assert len(sent) == len(schedule)
    assert min(each.lag_ms for each in sent) > 750
    assert all(each.latency_ms > each.lag_ms for each in sent)
    assert {each.status for each in sent} == {""}
    assert mine.recv() == 0


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["perf", "load", *map(str, arguments)])
        return main()

    return run


def test_bundle_is_served_measured_and_reported(
    load: Callable[..., int],
    reference_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures, page = tmp_path / "load.json", tmp_path / "load.html"
    pacing = "--rate 10 --arrivals constant --duration 1 --warm-up 0.2 --processes 1"
    assert load(reference_bundle, *pacing.split(), "--json", figures, "--report", page) == 0
    assert "requests  10, answered 10, failed: none\n" in capsys.readouterr().out
    outcome = json.loads(figures.read_text())
    assert outcome["environment"]["command"].startswith(f"python -m perf load {reference_bundle}")
    assert outcome["environment"]["catalogue_version"]
    assert outcome["options"]["rate"] == 10
    assert outcome["result"]["target_rate"] == 10
    assert outcome["result"]["stages"]["encode_ms"]["p50_ms"] > 0
    sizes = outcome["result"]["batches"]["sizes"]
    assert sum(size["num_prompts"] * size["num_batches"] for size in sizes) == pytest.approx(10)
    assert outcome["result"]["batches"]["tokens_per_s"] > 0
    assert outcome["answers_checked"] == "10 compared with the bundle's own"
    assert page.read_text().count("<svg") == 5


class TurningService(RecommenderServiceServicer):
    """Passes on what a real server answers, but the third and later ones in the wrong order."""

    def __init__(self, address: str) -> None:
        self._stub = RecommenderServiceStub(grpc.insecure_channel(address))
        self._num_requests = 0

    def Recommend(  # noqa: N802
        self,
        request: pb.RecommendRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.RecommendResponse:
        reply = self._stub.Recommend(request)
        self._num_requests += 1
        if self._num_requests > 3:
            ids = [item.item_id for item in reply.items]
            for item, item_id in zip(reply.items, reversed(ids), strict=True):
                item.item_id = item_id
        return reply


def test_server_that_answers_wrongly_under_load_is_not_measured(
    load: Callable[..., int], reference_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pacing = "--rate 10 --arrivals constant --duration 1 --warm-up 0 --processes 1"
    with serving(reference_bundle) as server:
        turning = TurningService(server.address)
        with served(turning) as address:
            assert load(address, "--bundle", reference_bundle, *pacing.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: the server ranked otherwise while it was timed, in ranking 0: " in printed.err


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A thousand requests within 10 ms, which no client can send so fast."""
    path = tmp_path / "trace.jsonl"
    line = '{"offset_ms": %g, "history": [{"item_id": "1"}]}\n'
    path.write_text("".join(line % (number / 100) for number in range(1001)))
    return path


def test_void_run_says_so_and_exits_with_three(
    load: Callable[..., int], trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stalling_server(stalled_request=-1) as address:
        assert load(address, "--trace", trace, "--warm-up", 0, "--processes", 1) == 3
    printed = capsys.readouterr()
    assert "\nVOID: the clients sent " in printed.err
    assert "rate      target 100100.00/s, sent " in printed.out


@pytest.fixture
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_unreachable_server_is_one_error(
    load: Callable[..., int], closed_address: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(closed_address, "--trace", trace, "--warm-up", 0) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {closed_address} is not available: ")
    assert printed.err.count("\n") == 1


def test_address_without_a_catalogue_names_the_flags(
    load: Callable[..., int], closed_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(closed_address, "--rate", 1) == 1
    assert "give the server's --bundle, or replay a --trace" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--json", "--report"])
def test_folder_that_is_missing_is_found_before_the_run(
    load: Callable[..., int], trace: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trace.parent / "absent" / "file"
    assert load("127.0.0.1:1", "--trace", trace, flag, path) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: there is no folder ")
