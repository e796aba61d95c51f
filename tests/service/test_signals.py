"""The server as a process: signals end it, a killed client does not."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.generations import GPU_LOST

from engine.errors import CallFailed
from engine.request import Interaction, Recommendation, RecommendRequest
from engine.rpc.client import recommend

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
def start_server(delay_s: float) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", "support.fake_server", "--delay", str(delay_s)]
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
