"""Comparisons with peers of a few lines: right, wrong, broken and missing ones."""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import numpy as np
import pytest
import torch
from rich.progress import Progress

from engine import Interaction
from engine.bundle.opened import open_bundle
from llmsrec import checkpoint
from llmsrec.checkpoint import Checkpoint
from llmsrec.model import Heads
from perf.__main__ import main
from perf.compare import contenders, end_to_end, forwards, services
from perf.compare.contenders import PEERS, REFERENCE, Contender, Peer
from perf.compare.end_to_end import Expected
from perf.compare.forwards import Conditions
from perf.compare.messages import Absent, PeerTask, Ready
from perf.compare.peer_inputs import PeerInputs, Vectors
from perf.compare.result import Comparison, Row, judge
from perf.compare.services import Ask, Service, http_client, plain_service
from perf.compare.worker_process import WorkerProcess
from perf.compare.write_inputs import write_inputs
from perf.engine_access import as_interactions, render_history
from perf.errors import MeasureError, PeerFailed, WrongAnswer

NUM_PROMPTS = 3

SOURCES = {
    "right": "from perf.compare.peers.pytorch import load\n",
    "wrong": """
import numpy
def load(task):
    return lambda prompts: numpy.ones((len(prompts), 128), numpy.float32)
""",
    "broken": """
def load(task):
    raise RuntimeError("this processor is too old")
""",
    "dying": """
import os, signal
from perf.compare.peers import pytorch
def load(task):
    encode, left = pytorch.load(task), list(range(4))
    def encode_some(prompts):
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left.pop()
        return encode(prompts)
    return encode_some
""",
    "spinning": """
import threading
from numpy import zeros
def load(task):
    def spin():
        while True:
            pass
    threading.Thread(target=spin).start()
    return lambda prompts: zeros((len(prompts), 128))
""",
}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (forwards, end_to_end):
        monkeypatch.setattr(module, "PAUSE_S", 0.0)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fake peers importable in workers."""
    for name, source in SOURCES.items():
        (tmp_path / f"fake_{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.fixture(scope="module")
def inputs(
    reference_bundle: Path,
    reference_checkpoint: Checkpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> PeerInputs:
    bundle = open_bundle(reference_bundle)
    histories = reference_checkpoint.histories[:NUM_PROMPTS]
    prompts = [render_history(bundle, history) for history in histories]
    return write_inputs(tmp_path_factory.mktemp("inputs"), reference_checkpoint, prompts)


def fake(name: str, *packages: str) -> Peer:
    return Peer(name, "fp32", f"fake_{name}", packages or ("numpy",), install="pip install it")


def make_task(inputs: PeerInputs, checkpoint_dir: Path, peer: Peer) -> PeerTask:
    return PeerTask(
        module=peer.module,
        packages=list(peer.packages),
        precision=peer.precision,
        inputs_folder=str(inputs.folder),
        checkpoint=str(checkpoint_dir),
        bundle="",
        num_threads=1,
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    words = ["perf", "compare", *map(str, arguments)]
    monkeypatch.setattr("sys.argv", words)
    return main()


@pytest.mark.peers
@pytest.mark.usefixtures("modules")
def test_run_goes_on_whatever_becomes_of_a_peer(
    reference_bundle: Path,
    reference_checkpoint_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fakes = [fake(name) for name in ("broken", "wrong", "dying", "right")]
    peers = [REFERENCE, fake("missing", "no_such_package"), *fakes]
    monkeypatch.setattr(contenders, "PEERS", peers)
    monkeypatch.setattr(services, "has_plain_service", lambda: False)
    figures = tmp_path / "figures.json"
    options = ["--checkpoint", reference_checkpoint_dir, "--prompts", 3, "--rounds", 2]
    assert run(monkeypatch, reference_bundle, *options, "--json", figures) == 0
    result = msgspec.json.decode(figures.read_bytes(), type=Comparison)
    rows = {row.name.removesuffix(" fp32"): row for row in result.rows}
    assert list(rows)[:2] == ["pytorch", f"ours fp32 ({reference_bundle})"]
    assert rows["missing"].problem == (
        "absent, there is no module no_such_package; to add it: pip install it"
    )
    assert rows["broken"].problem == "failed: RuntimeError: this processor is too old"
    assert rows["dying"].problem == "failed: killed by SIGKILL"
    assert all(rows[name].times is None for name in ("missing", "broken", "dying"))
    wrong, right = rows["wrong"], rows["right"]
    assert wrong.quality is not None
    assert wrong.times is not None
    assert right.quality is not None
    assert not wrong.quality.is_equal
    assert right.quality.is_equal
    assert right.versions["numpy"] == np.__version__
    (server, plain) = result.services
    assert (server.is_ours, server.is_equal, server.problem) == (True, True, "")
    assert server.times is not None
    assert plain.problem.startswith("absent, FastAPI or uvicorn is missing; to add them: pip")
    printed = capsys.readouterr().out
    assert "wrong, the fastest peer" not in printed
    assert "the fastest peer of equal quality" in printed


@pytest.mark.usefixtures("modules")
def test_worker_computes_nothing_while_it_is_not_its_turn(
    inputs: PeerInputs, reference_checkpoint_dir: Path, tmp_path: Path
) -> None:
    worker = WorkerProcess(sys.executable, tmp_path / "log", num_threads=1)
    try:
        worker.load(make_task(inputs, reference_checkpoint_dir, fake("spinning")))
        worker.encode([0, 1])
        pid = worker.pid
        before = ticks(pid)
        time.sleep(0.3)
        assert ticks(pid) == before
        for _ in range(20):
            assert worker.encode([2])[0].shape == (1, 128)
            time.sleep(0.01)
        assert ticks(pid) > before
    finally:
        worker.close()
    assert not Path(f"/proc/{pid}").exists()


def ticks(pid: int) -> int:
    """Give the processor time that a process has had, in the user's mode (Linux)."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return int(stat.rpartition(")")[2].split()[11])


def test_peer_that_gives_no_answer_fails(
    inputs: PeerInputs,
    reference_checkpoint_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perf.compare.worker_process.LOAD_SECONDS", 0.01)
    worker = WorkerProcess(sys.executable, tmp_path / "log", num_threads=1)
    with pytest.raises(PeerFailed, match=r"gave no answer in 0.01 s"):
        worker.load(make_task(inputs, reference_checkpoint_dir, REFERENCE))
    worker.close()


@pytest.mark.peers
@pytest.mark.parametrize(
    "peer", [peer for peer in PEERS if peer.name in {"optimum fp32", "openvino fp32"}]
)
def test_peer_of_the_inputs_gives_the_vectors_of_the_model(
    inputs: PeerInputs,
    reference_checkpoint: Checkpoint,
    reference_checkpoint_dir: Path,
    tmp_path: Path,
    peer: Peer,
) -> None:
    worker = WorkerProcess(sys.executable, tmp_path / "log", num_threads=1)
    try:
        answer = worker.load(make_task(inputs, reference_checkpoint_dir, peer))
        if isinstance(answer, Absent):
            pytest.skip(f"{peer.library} is not installed")
        assert isinstance(answer, Ready)
        vectors, time_ms = worker.encode(range(NUM_PROMPTS))
    finally:
        worker.close()
    expected = encode(reference_checkpoint, inputs)
    items = np.random.default_rng(0).normal(size=(400, 128)).astype(np.float32)
    assert judge(vectors, expected, items, "fp32").is_equal
    assert time_ms > 0


@torch.inference_mode()
def encode(loaded: Checkpoint, inputs: PeerInputs) -> Vectors:
    return loaded.load_model()[0].user_vectors(inputs.prompts).numpy()


@torch.inference_mode()
def test_inputs_embed_and_read_out_as_the_model_does(
    inputs: PeerInputs, reference_checkpoint: Checkpoint
) -> None:
    model, _ = reference_checkpoint.load_model()
    input_ids, slot_ids, positions = model.collate(inputs.prompts)
    embedded, at = inputs.embed_padded(inputs.prompts)
    expected = model.embed(input_ids, slot_ids, model.item_table).numpy()
    for row, length in enumerate(positions.numpy() + 1):
        np.testing.assert_allclose(embedded[row, :length], expected[row, :length], atol=1e-6)
    assert at.tolist() == positions.tolist()
    readouts = model.readout(input_ids, slot_ids, positions)
    vectors = model.heads.pred_user(readouts).numpy()
    np.testing.assert_allclose(inputs.user_vectors(readouts.numpy()), vectors, atol=1e-5)


@pytest.mark.peers
def test_bundle_of_another_checkpoint_is_refused_before_anything_is_timed(
    reference_bundle: Path,
    reference_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    torch.manual_seed(0)
    heads = Heads(reference_checkpoint.config.llm_dim)
    checkpoint.save(other, replace(reference_checkpoint, heads=heads))
    monkeypatch.setattr(contenders, "PEERS", [REFERENCE])
    assert run(monkeypatch, reference_bundle, "--checkpoint", other, "--prompts", 2) == 1
    output = capsys.readouterr()
    assert "is not equal to the checkpoint" in output.err
    assert output.out == ""


class FakeWorker:
    """Encodes each prompt as its number says; turns wrong after `num_right` turns where named."""

    num_right = NUM_PROMPTS + 2

    def __init__(self, python: str, log: Path, num_threads: int) -> None:
        assert num_threads == 1
        self._turns_wrong = python == "turning" or "turning" in log.name
        self._num_turns = 0

    def load(self, _task: PeerTask) -> Ready:
        return Ready({})

    def encode(self, prompts: Sequence[int]) -> tuple[Vectors, float]:
        self._num_turns += 1
        vectors = np.array([VECTORS[number] for number in prompts], np.float32)
        is_wrong = self._turns_wrong and self._num_turns > self.num_right
        return (-vectors if is_wrong else vectors), 1.0

    def close(self) -> None: ...


VECTORS = np.random.default_rng(0).normal(size=(NUM_PROMPTS, 8))


def contend(name: str, *, is_ours: bool = False) -> Contender:
    return Contender(fake(name), Row(name=name, precision="fp32", is_ours=is_ours), python=name)


@pytest.fixture
def conditions(inputs: PeerInputs, monkeypatch: pytest.MonkeyPatch) -> Conditions:
    monkeypatch.setattr(forwards, "WorkerProcess", FakeWorker)
    items = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    return Conditions(inputs, Path(), items, num_users=1, num_rounds=3, num_threads=1)


def test_peer_whose_vectors_turn_wrong_while_it_is_timed_has_no_time(
    conditions: Conditions,
) -> None:
    contestants = [contend("right"), contend("turning"), contend("mine", is_ours=True)]
    forwards.measure(contestants, conditions, Progress(disable=True))
    right, turning, mine = (contender.row for contender in contestants)
    assert right.times is not None
    assert mine.times is not None
    assert turning.times is None
    assert re.match(r"failed: it gave other vectors .*\(cosine -1\.0", turning.problem)


def test_ours_that_turns_wrong_while_it_is_timed_ends_the_comparison(
    conditions: Conditions,
) -> None:
    contestants = [contend("right"), contend("turning", is_ours=True)]
    with pytest.raises(WrongAnswer, match="turning gave other vectors while it was timed"):
        forwards.measure(contestants, conditions, Progress(disable=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "100000"], r"holds \d+ histories; ask for no more --prompts"),
        (["--json", "/no/such/folder/a.json"], "there is no folder /no/such"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    reference_bundle: Path,
    reference_checkpoint_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    words = [reference_bundle, "--checkpoint", reference_checkpoint_dir, *options]
    assert run(monkeypatch, *words) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--checkpoint", "c", "--peer", "tensorflow"],
        ["--checkpoint", "c", "--users", "0"],
        ["--checkpoint", "c", "--rounds", "many"],
        ["--checkpoint", "c", "--python", "vllm"],
        ["--checkpoint", "c", "--python", "vllm=/no/such/python"],
        ["--checkpoint", "c", "--python", f"tensorflow={sys.executable}"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_two(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "bundle", *options)


EXPECTED = Expected(
    histories=[[Interaction("0")], [Interaction("1", 5)]],
    scores=np.tile(np.arange(12, 0, -1, dtype=np.float32), (2, 1)),  # item 0 first, 11 last
    row_of_id={str(row): row for row in range(12)},
)


def best_unseen(history: Sequence[Interaction]) -> list[str]:
    seen = {each.item_id for each in history}
    return [str(row) for row in range(12) if str(row) not in seen][:10]


class RefusingService:
    """Fails, and counts how often it was asked."""

    num_asked = 0

    def ask(self, _history: Sequence[Interaction]) -> list[str]:
        self.num_asked += 1
        raise MeasureError("INTERNAL: out of memory")


def make_service(name: str, ask: Ask) -> Service:
    return Service(name, "fp32", is_ours=False, connect=lambda: ask)


def test_services_are_compared_and_one_that_fails_stops_no_other() -> None:
    refusing = RefusingService()
    contestants = [
        make_service("right", best_unseen),
        make_service("failing", refusing.ask),
        make_service("with what was seen", lambda _: [str(row) for row in range(10)]),
    ]
    right, failing, other = end_to_end.measure(contestants, EXPECTED, 2, Progress(disable=True))
    assert (right.answers_overlap, right.is_equal) == (1.0, True)
    assert right.times is not None
    assert (right.answers_per_s or 0) > 0
    assert (failing.problem, failing.times) == ("failed: INTERNAL: out of memory", None)
    assert refusing.num_asked == 1
    assert other.answers_overlap == pytest.approx(0.9)
    assert not other.is_equal


class TurningService:
    """Answers rightly as often as it is asked before the clock starts, and once more."""

    num_left = len(EXPECTED.histories) + 1

    def ask(self, history: Sequence[Interaction]) -> list[str]:
        self.num_left -= 1
        return best_unseen(history) if self.num_left >= 0 else ["0", "1"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_service_that_turns_wrong_while_it_is_timed_has_no_time(is_ours: bool) -> None:
    service = make_service("turning", TurningService().ask)._replace(is_ours=is_ours)
    if is_ours:
        with pytest.raises(WrongAnswer, match="turning gave other answers while it was timed"):
            end_to_end.measure([service], EXPECTED, 2, Progress(disable=True))
        return
    (row,) = end_to_end.measure([service], EXPECTED, 2, Progress(disable=True))
    assert (row.times, row.answers_per_s) == (None, None)
    assert row.problem.startswith("failed: it gave other answers while it was timed (overlap@10 0.")


class PlainHandler(BaseHTTPRequestHandler):
    """Answers with the ids that it was asked about; fails without a timestamp."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids = [{"item_id": each["item_id"]} for each in request["history"]]
        is_dated = all(each["timestamp_ms"] for each in request["history"])
        body = json.dumps(ids).encode()
        self.send_response(200 if is_dated else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def plain_connection() -> Iterator[HTTPConnection]:
    with ThreadingHTTPServer(("127.0.0.1", 0), PlainHandler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        with closing(HTTPConnection("127.0.0.1", server.server_port)) as connection:
            yield connection
        server.shutdown()
        serving.join()


def test_plain_client_reads_answers_and_names_failures(plain_connection: HTTPConnection) -> None:
    ask = http_client(plain_connection)
    assert ask([Interaction("7", 1), Interaction("8", 2)]) == ["7", "8"]
    with pytest.raises(MeasureError, match="answered 500"):
        ask([Interaction("7")])


@pytest.mark.peers
def test_plain_service_recommends_what_the_model_does(
    reference_bundle: Path,
    reference_checkpoint: Checkpoint,
    reference_checkpoint_dir: Path,
    inputs: PeerInputs,
) -> None:
    pytest.importorskip("fastapi")
    bundle = open_bundle(reference_bundle)
    expected = Expected(
        histories=[
            as_interactions(bundle, history)
            for history in reference_checkpoint.histories[:NUM_PROMPTS]
        ],
        scores=encode(reference_checkpoint, inputs) @ bundle.catalogue.item_vectors.T,
        row_of_id=bundle.catalogue.row_of_id,
    )
    with plain_service(reference_checkpoint_dir, reference_bundle) as service:
        (row,) = end_to_end.measure([service], expected, 1, Progress(disable=True))
    assert (row.problem, row.is_equal) == ("", True)
