"""The command `recommend`: what it prints of an answer, and why there is none."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from support.fake_server import make_config
from support.generations import SummingPipeline, make_generation

from engine.__main__ import main, make_parser
from engine.errors import InvalidRequest
from engine.live import Live
from engine.request import Interaction, RecommendRequest
from engine.rpc.client import recommend
from engine.rpc.server import Server
from engine.serving import Serving
from llmsrec.v1 import recommender_pb2 as pb
from llmsrec.v1.recommender_pb2_grpc import (
    RecommenderServiceServicer,
    add_RecommenderServiceServicer_to_server,
)

ROOT = Path(__file__).parents[2]
Answer = Callable[[socket.socket], None]


@contextmanager
def listening(answer: Answer) -> Iterator[str]:
    """Accept connections on a free port and treat each so."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        threads.submit(accept)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def speak_http_1(connection: socket.socket) -> None:
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def speak_ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    connection.recv(1024)


def hang_up(connection: socket.socket) -> None:
    """Do as a server does that expects TLS."""
    connection.recv(1024)


def keep_silent(connection: socket.socket) -> None:
    while connection.recv(1024):
        pass


def ask(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", "recommend", *arguments]
    environ = os.environ | environment
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


class Recording(RecommenderServiceServicer):
    """Remembers what it was asked, and answers with one film, unless no item is known."""

    def __init__(self) -> None:
        self.asked: list[pb.RecommendRequest] = []

    def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: grpc.ServicerContext
    ) -> pb.RecommendResponse:
        self.asked.append(request)
        if all(interaction.item_id.startswith("no") for interaction in request.history):
            problem = f"history: none of its {len(request.history)} item ids is in the catalogue c"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        item = pb.RankedItem(item_id="7", title="Amélie\n\x1b[31m", score=2.5)
        return pb.RecommendResponse(items=[item] * len(request.history), model_version="m")


class Served(NamedTuple):
    address: str
    socket: str
    service: Recording


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    service = Recording()
    server = grpc.server(ThreadPoolExecutor())
    add_RecommenderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    socket_address = f"unix:{tmp_path}/engine.sock"
    server.add_insecure_port(socket_address)
    server.start()
    yield Served(f"127.0.0.1:{port}", socket_address, service)
    server.stop(None).wait()


def test_options_keep_their_order_and_defaults() -> None:
    parser = make_parser()
    options = parser.parse_args(["recommend", "a:1", "--item", "2", "--item", "1"])
    assert [interaction.item_id for interaction in options.history] == ["2", "1"]
    assert (options.k, options.include_seen, options.exclude) == (None, False, [])
    assert options.timeout == 5
    more = ["-k", "3", "--include-seen", "--exclude", "7", "--exclude", "8", "--timeout", "0.5"]
    options = parser.parse_args(["recommend", "a:1", "--item", "1", *more])
    assert (options.k, options.include_seen, options.timeout) == (3, True, 0.5)
    assert options.exclude == ["7", "8"]


async def test_answer_of_the_engines_server_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config()
    serving = Serving(Live(make_generation(SummingPipeline())), config.admission)
    server = Server(serving, config)
    await server.start()
    arguments = ["recommend", server.address, "--item", "1", "--item", "2"]
    assert await asyncio.to_thread(main, arguments) == 0
    await server.drain()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["1", "3.0000", "3", "Title", "3"]
    assert "model model-1, catalogue catalogue-1" in lines


def test_k_is_sent_where_it_was_given(served: Served) -> None:
    assert main(["recommend", served.address, "--item", "1"]) == 0
    assert main(["recommend", served.address, "--item", "1", "-k", "10"]) == 0
    absent, given = served.service.asked
    assert (absent.HasField("k"), given.k) == (False, 10)


def test_socket_of_this_machine_is_asked(served: Served) -> None:
    assert main(["recommend", served.socket, "--item", "1"]) == 0
    assert len(served.service.asked) == 1


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_this_machine_is_never_asked_through_a_proxy(
    served: Served, closed_address: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://{closed_address}")
    local = served.address.replace("127.0.0.1", "localhost")
    for address in (served.address, local, served.socket):
        assert main(["recommend", address, "--item", "1"]) == 0


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_proxy_that_does_not_connect_is_named(
    closed_address: str,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, f"http://{closed_address}")
    assert main(["recommend", "192.0.2.1:50051", "--item", "1"]) == 1
    error = capsys.readouterr().err
    assert f"variable {variable} sends the call through a proxy: unset it, or name 192.0" in error


def test_unknown_ids_are_named(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["recommend", served.address, "--item", "no1", "--item", "no\n2", "--item", "no1"]
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("is in the catalogue c (asked with 'no1', 'no\\n2')\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(speak_http_1, "speaks HTTP/1 and not gRPC; check the port", id="HTTP/1"),
        pytest.param(speak_ssh, "does not speak gRPC; check the port", id="SSH"),
        pytest.param(hang_up, "hangs up on gRPC without TLS: it speaks TLS", id="TLS"),
        pytest.param(keep_silent, "did not connect within 0.5 s: what listens", id="silent"),
    ],
)
def test_what_is_no_server_of_the_engine_is_told_apart(
    answer: Answer, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(answer) as address:
        assert main(["recommend", address, "--item", "1", "--timeout", "0.5"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {address} ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{closed}", "the connection was refused, so no server listens there; start one with"),
        ("no-such-host.invalid:50051", "no such host is known; check its spelling"),
        ("unix:{tmp_path}/absent.sock", "there is no such socket; start a server on it"),
    ],
    ids=["closed port", "unknown host", "no socket"],
)
def test_server_that_is_not_there_is_one_line(
    address: str,
    words: str,
    closed_address: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = address.format(closed=closed_address, tmp_path=tmp_path)
    assert main(["recommend", address, "--item", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {address} is not available: {words}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-k", "-1"], "error: k: -1 is not between 1 and 4294967295"),
        (["-k", "9" * 30], f"error: k: {'9' * 30} is not between 1 and 4294967295"),
    ],
)
def test_value_that_does_not_fit_is_never_sent(
    served: Served, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", served.address, "--item", "1", *flags]) == 1
    assert capsys.readouterr().err.startswith(words)
    assert served.service.asked == []


def test_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "localhost", "--item", "1"]) == 1
    assert "it has no port, such as localhost:50051" in capsys.readouterr().err


def test_request_of_another_type_is_refused_before_the_call(served: Served) -> None:
    request = RecommendRequest([Interaction("1"), Interaction(2)])  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"^history\[1\]\.item_id: is int, expected str"):
        recommend(served.address, request)
    assert served.service.asked == []


def test_title_is_escaped_where_the_encoding_lacks_it(served: Served) -> None:
    done = ask(served.address, "--item", "1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].endswith(r"Am\xe9lie\n\x1b[31m")


HEEDING_INTERRUPTS = """
import signal
import sys
from engine.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
"""A shell lets what it starts in the background ignore them, and so would all of a test run."""


def test_interrupt_ends_a_call_without_a_traceback() -> None:
    asked = threading.Event()

    def note(connection: socket.socket) -> None:
        asked.set()
        keep_silent(connection)

    with listening(note) as address:
        command = [sys.executable, "-c", HEEDING_INTERRUPTS, "recommend", address, "--item", "1"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
            assert asked.wait(timeout=30)
            time.sleep(0.5)  # gRPC connects from a thread of its own, before the call is waited for
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 128 + signal.SIGINT
