"""The server as a process: signals end it, a killed client does not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
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
def start_server(delay_s: float, prefix: Sequence[str] = ()) -> Iterator[ServerProcess]:
    command = [*prefix, sys.executable, "-m", "support.fake_server", "--delay", str(delay_s)]
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
