"""The server as a process: signals end it, a killed client does not."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.generations import GPU_LOST

from engine.errors import CallFailed
from engine.request import Interaction, Recommendation, RecommendRequest
from engine.rpc.client import recommend
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import RecommenderServiceStub

TESTS = Path(__file__).parents[1]
REQUEST = RecommendRequest([Interaction("1"), Interaction("2")])
CLIENT = """
import sys
from engine.rpc.client import recommend
from engine.request import Interaction, RecommendRequest
recommend(sys.argv[1], RecommendRequest([Interaction("1")]))
"""


@dataclass(frozen=True)
class ServerProcess:
    process: subprocess.Popen[str]
    address: str

    def wait_for_log(self, word: str) -> None:
        assert self.process.stderr is not None
        assert any(word in line for line in self.process.stderr)

    def ask(self, request: RecommendRequest = REQUEST) -> Recommendation:
        return recommend(self.address, request, timeout_s=10)


@contextmanager
def start_server(
    delay_s: float, prefix: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    program = [sys.executable, "-m", "support.fake_server", "--delay", str(delay_s)]
    command = [*prefix, *program, *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=TESTS, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            word, address, *versions = process.stdout.readline().split()
            assert (word, versions) == ("ready", ["model=model-1", "catalogue=catalogue-1"])
            yield ServerProcess(process, address)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_exits_with_success(number: signal.Signals) -> None:
    with start_server(delay_s=0.5) as server, ThreadPoolExecutor() as threads:
        asking = threads.submit(server.ask)
        server.wait_for_log("encoding")
        server.process.send_signal(number)
        assert asking.result(timeout=10).items[0].item_id == "3"
        assert server.process.wait(timeout=10) == 0
        with pytest.raises(CallFailed, match="not available"):
            server.ask()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(number: signal.Signals) -> None:
    with start_server(delay_s=60) as server, ThreadPoolExecutor() as threads:
        asking = threads.submit(server.ask)
        server.wait_for_log("encoding")
        server.process.send_signal(number)
        server.wait_for_log("draining")
        server.process.send_signal(number)
        assert server.process.wait(timeout=3) == -number
        assert isinstance(asking.exception(timeout=10), CallFailed)


@pytest.mark.parametrize("drain_seconds", [0.0, 5.0])
def test_calls_under_way_at_a_stop_are_answered_or_told_to_go_elsewhere(
    drain_seconds: float,
) -> None:
    """CANCELLED would be the caller's own doing, which nobody tries again."""
    message = pb.RecommendRequest(history=[pb.Interaction(item_id="3")])
    with (
        start_server(delay_s=0.01, options=("--drain-seconds", str(drain_seconds))) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        ask = RecommenderServiceStub(channel).Recommend
        calls = [ask.future(message, timeout=20) for _ in range(300)]
        server.wait_for_log("encoding")
        server.process.terminate()
        statuses = Counter(call.code() for call in calls)
        _, log = server.process.communicate(timeout=20)
    full, gone = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
    assert statuses.keys() <= {grpc.StatusCode.OK, full, gone}
    assert server.process.returncode == 0
    assert "Traceback" not in log


AS_FIRST_PROCESS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command as a container does that has no init: Linux drops what it does not handle."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace")


def find_child(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.01)
    return int(found[0])


@needs_root
def test_second_signal_stops_a_containers_first_process() -> None:
    with start_server(delay_s=60, prefix=AS_FIRST_PROCESS) as server:
        asking = ThreadPoolExecutor().submit(server.ask)
        server.wait_for_log("encoding")
        child = find_child(server.process)
        os.kill(child, signal.SIGTERM)
        server.wait_for_log("draining")
        os.kill(child, signal.SIGTERM)
        assert server.process.wait(timeout=5) == 128 + signal.SIGTERM
        assert isinstance(asking.exception(timeout=10), CallFailed)


@pytest.mark.parametrize(
    "prefix", [pytest.param((), id="alone"), pytest.param(AS_FIRST_PROCESS, marks=needs_root)]
)
def test_signal_ends_a_server_that_still_loads(
    prefix: Sequence[str], reference_bundle: Path
) -> None:
    command = [*prefix, sys.executable, "-X", "importtime", "-m", "engine", "serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, str(reference_bundle), "--listen", "127.0.0.1:0"],
        cwd=TESTS.parent,
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("numpy" in line for line in process.stderr)
        os.kill(find_child(process) if prefix else process.pid, signal.SIGTERM)
        out, log = process.communicate(timeout=10)
    assert process.returncode in {-signal.SIGTERM, 128 + signal.SIGTERM}
    assert "SIGTERM: ends at once" in log
    assert out == ""


def test_open_streams_end_with_the_server_and_leave_no_traceback() -> None:
    with start_server(delay_s=0) as server, grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        requests.put(reflection_pb2.ServerReflectionRequest(list_services=""))
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        reflection = stub.ServerReflectionInfo(iter(requests.get, None))
        assert next(reflection).HasField("list_services_response")
        server.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for stream in (watch, reflection):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        requests.put(None)
        _, log = server.process.communicate(timeout=10)
    assert server.process.returncode == 0
    assert "Traceback" not in log


def test_output_that_cannot_be_written_stops_the_server_cleanly(reference_bundle: Path) -> None:
    command = [sys.executable, "-m", "engine", "serve", str(reference_bundle)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--listen", "127.0.0.1:0"],
            cwd=TESTS.parent,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("error: cannot write the output: No space left on device\n")


def test_hangup_is_declined_and_the_server_goes_on() -> None:
    with start_server(delay_s=0) as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("SIGHUP: nothing is read again")
        assert server.ask().items[0].item_id == "3"


def test_server_whose_gpu_fails_answers_with_that_and_exits_to_be_started_anew() -> None:
    with start_server(delay_s=0) as server:
        assert server.ask().items[0].item_id == "3"
        with pytest.raises(CallFailed, match=r"not available.*cudaGraphLaunch failed"):
            server.ask(RecommendRequest([Interaction(str(GPU_LOST))]))
        _, log = server.process.communicate(timeout=10)
    assert server.process.returncode == 1
    assert "ERROR:engine.serving:cudaGraphLaunch failed" in log
    assert "draining" in log
    assert log.endswith("error: cudaGraphLaunch failed with cudaErrorIllegalAddress\n")


def test_killed_client_leaves_the_server_serving() -> None:
    with start_server(delay_s=0.3) as server:
        command = [sys.executable, "-c", CLIENT, server.address]
        with subprocess.Popen(command, cwd=TESTS) as client:
            server.wait_for_log("encoding")
            client.kill()
        assert client.returncode == -signal.SIGKILL
        assert server.ask().items[0].item_id == "3"
