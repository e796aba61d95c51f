"""The real server on a real bundle, without the packages of training."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from conftest import Reference
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine import Interaction, Recommendation, Recommender, RecommendRequest
from engine.config import RequestConfig
from engine.errors import CallFailed
from engine.rpc.client import recommend
from engine.rpc.wire import MAX_LISTED_IGNORED

ROOT = Path(__file__).parents[2]
BLOCKED = ("torch", "transformers", "optimum", "onnx", "tokenizers", "accelerate", "gguf", "rich")
READY_SECONDS = 10
MAX_RUN_SECONDS = 60
SITE_CUSTOMIZE = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} in a serving container")

sys.meta_path.insert(0, Blocker())
"""
LIST_MODULES = """
import sys
from engine import Interaction, Recommender, RecommendRequest

recommender = Recommender.open(sys.argv[1])
recommender.recommend([RecommendRequest([Interaction("1")])])
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture(scope="module")
def serving_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process that finds none of the packages of training."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    return os.environ | {"PYTHONPATH": str(folder)}


def run(env: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=MAX_RUN_SECONDS,
    )


@dataclass(frozen=True)
class ServerProcess:
    process: subprocess.Popen[str]
    address: str
    versions: list[str]
    start_seconds: float

    def ask(self, request: RecommendRequest) -> Recommendation:
        return recommend(self.address, request, timeout_s=30)


@contextmanager
def start_server(bundle: Path, env: dict[str, str], *options: object) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", "engine", "serve", str(bundle), *map(str, options)]
    started, pipe = time.monotonic(), subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            word, address, *versions = process.stdout.readline().split()
            assert word == "ready"
            yield ServerProcess(process, address, versions, time.monotonic() - started)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(reference_bundle: Path, serving_env: dict[str, str]) -> Iterator[ServerProcess]:
    with start_server(reference_bundle, serving_env, "--listen", "127.0.0.1:0") as running:
        yield running


def assert_same(found: Recommendation, expected: Recommendation) -> None:
    assert [item.item_id for item in found.items] == [item.item_id for item in expected.items]
    assert [item.title for item in found.items] == [item.title for item in expected.items]
    scores = [item.score for item in expected.items]
    tolerance = 1e-5 * max(map(abs, scores))
    assert [item.score for item in found.items] == pytest.approx(scores, abs=tolerance)
    assert found.num_used_interactions == expected.num_used_interactions
    assert found.ignored == expected.ignored[:MAX_LISTED_IGNORED]
    assert found.model_version == expected.model_version
    assert found.catalogue_version == expected.catalogue_version


def test_packages_of_training_are_out_of_reach(serving_env: dict[str, str]) -> None:
    for name in BLOCKED:
        probe = f"import importlib.util; importlib.util.find_spec({name!r})"
        assert "in a serving container" in run(serving_env, "-c", probe).stderr


def test_server_is_ready_in_time_and_says_what_it_serves(
    server: ServerProcess, recommender: Recommender
) -> None:
    assert server.start_seconds < READY_SECONDS
    assert server.versions == [
        f"model={recommender.model_version}",
        f"catalogue={recommender.catalogue_version}",
    ]


def test_health_is_serving(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for service in ("", "llmsrec.v1.RecommenderService"):
            request = health_pb2.HealthCheckRequest(service=service)
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_largest_requests_of_the_defaults_keep_health_waiting_for_moments_only(
    server: ServerProcess,
) -> None:
    bounds = RequestConfig()
    largest = RecommendRequest(
        [Interaction(f"unknown{row}") for row in range(bounds.max_interactions - 1)]
        + [Interaction("1")],
        excluded_item_ids=[f"unknown{row}" for row in range(bounds.max_excluded_ids)],
    )
    waits = []
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor() as threads:
        health = health_pb2_grpc.HealthStub(channel)
        calls = [threads.submit(server.ask, largest) for _ in range(4)]
        while not all(call.done() for call in calls):
            started = time.monotonic()
            health.Check(health_pb2.HealthCheckRequest(), timeout=30)
            waits.append(time.monotonic() - started)
        assert {call.result().num_used_interactions for call in calls} == {1}
    assert max(waits) < 0.3


def test_more_than_the_defaults_is_refused(server: ServerProcess) -> None:
    interactions = [Interaction("1")] * (RequestConfig().max_interactions + 1)
    with pytest.raises(CallFailed, match=r"INVALID_ARGUMENT: history: .*max_interactions"):
        server.ask(RecommendRequest(interactions))


def test_files_that_change_are_not_what_a_running_server_serves(
    reference_bundle: Path, serving_env: dict[str, str], tmp_path: Path
) -> None:
    bundle = shutil.copytree(reference_bundle, tmp_path / "bundle")
    request = RecommendRequest([Interaction("1"), Interaction("2")])
    with start_server(bundle, serving_env, "--listen", "127.0.0.1:0") as running:
        before = running.ask(request)
        for file in bundle.iterdir():
            with file.open("r+b") as content:
                content.write(bytes(file.stat().st_size))
        assert running.ask(request).items == before.items
        for file in bundle.iterdir():
            os.truncate(file, 0)
        assert running.ask(request).items == before.items


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(RecommendRequest([Interaction("1", 10**12), Interaction("2")]), id="default"),
        pytest.param(
            RecommendRequest([Interaction("5")] * 3, 400, include_seen=True), id="everything"
        ),
        pytest.param(
            RecommendRequest(
                [Interaction("x"), *(Interaction(str(each)) for each in range(1, 13))],
                3,
            ),
            id="ignored interactions",
        ),
    ],
)
def test_client_gets_what_the_engine_gives_in_process(
    server: ServerProcess, recommender: Recommender, request_: RecommendRequest
) -> None:
    (expected,) = recommender.recommend([request_])
    assert_same(server.ask(request_), expected)


def test_excluded_items_never_come_back(server: ServerProcess, recommender: Recommender) -> None:
    plain = RecommendRequest([Interaction("7")])
    first, second, *_ = server.ask(plain).items
    excluding = replace(plain, excluded_item_ids=[first.item_id, "unknown"])
    found = server.ask(excluding)
    assert found.items[0].item_id == second.item_id
    assert_same(found, recommender.recommend([excluding])[0])


def test_command_line_prints_what_the_engine_gives_in_process(
    server: ServerProcess, recommender: Recommender, serving_env: dict[str, str]
) -> None:
    history = [Interaction("7", 880_156_800_000), Interaction("9")]
    best = recommender.recommend([RecommendRequest(history)])[0].items[0].item_id
    (expected,) = recommender.recommend([RecommendRequest(history, 4, excluded_item_ids=[best])])
    items = ["--item", "7@1997-11-22", "--item", "9", "-k", "4", "--exclude", best]
    done = run(serving_env, "-m", "engine", "recommend", server.address, *items)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[5] == ""
    for line, item in zip(lines[1:5], expected.items, strict=True):
        _, score, item_id, title = line.split(maxsplit=3)
        assert (item_id, title) == (item.item_id, item.title)
        assert float(score) == pytest.approx(item.score, abs=2e-4)
    assert f"model {expected.model_version}, catalogue {expected.catalogue_version}" in lines
    assert lines[-2] == "used 2 of 2 interactions"
    assert "one of 1 encoded together" in lines[-1]


def test_concurrent_requests_of_all_lengths_get_their_single_answers(
    server: ServerProcess, recommender: Recommender, reference: Reference
) -> None:
    requests = [RecommendRequest(history) for history in reference.histories] * 2
    singles = [recommender.recommend([request])[0] for request in requests]
    with ThreadPoolExecutor(max_workers=16) as threads:
        for found, expected in zip(threads.map(server.ask, requests), singles, strict=True):
            assert_same(found, expected)


def test_bad_request_names_its_field(server: ServerProcess, serving_env: dict[str, str]) -> None:
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT: history: none of its 1 item ids"):
        server.ask(RecommendRequest([Interaction("unknown")]))
    done = run(serving_env, "-m", "engine", "recommend", server.address, "--item", "1", "-k", "401")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "INVALID_ARGUMENT: k: must be between 1 and 400, the catalogue's items\n"
    )


def test_server_takes_its_settings_from_the_file_and_ends_with_sigterm(
    reference_bundle: Path, serving_env: dict[str, str], tmp_path: Path
) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text('[server]\nlisten = "127.0.0.1:0"\n[encoder]\nnum_threads = 1\n')
    with start_server(reference_bundle, serving_env, "--config", settings) as running:
        assert len(running.ask(RecommendRequest([Interaction("1")])).items) == 10
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0


def test_misspelt_key_is_named(
    reference_bundle: Path, serving_env: dict[str, str], tmp_path: Path
) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text('[server]\nlisten = "127.0.0.1:0"\n[batcher]\nmax_batch_token = 5\n')
    done = run(serving_env, "-m", "engine", "serve", reference_bundle, "--config", settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {settings}: ")
    assert "`max_batch_token`" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "check"])
def test_damaged_bundle_is_one_error(
    reference_bundle: Path, serving_env: dict[str, str], tmp_path: Path, command: str
) -> None:
    for file in reference_bundle.iterdir():
        (tmp_path / file.name).symlink_to(file)
    damaged = tmp_path / "items.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.unlink()
    damaged.write_bytes(content)
    done = run(serving_env, "-m", "engine", command, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {damaged} is damaged: its SHA-256 is ")
    assert done.stderr.count("\n") == 1


def test_check_prints_what_it_found(
    reference_bundle: Path, serving_env: dict[str, str], recommender: Recommender
) -> None:
    done = run(serving_env, "-m", "engine", "check", reference_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    words = [line.split()[0] for line in lines]
    assert words == ["model", "catalogue", "built", "files", "parity", "probes"]
    assert f"model      {recommender.model_version}, fp32 on onnxruntime" in lines


def test_recommender_imports_no_package_of_training(reference_bundle: Path) -> None:
    done = run(dict(os.environ), "-c", LIST_MODULES, reference_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    imported = set(done.stdout.split())
    assert {"engine", "onnxruntime", "numpy", "llmsrec"} <= imported
    assert imported.isdisjoint({*BLOCKED, "export", "grpc", "google"})
