"""Nothing leaves the machine, and nothing is left in the user's home."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="calls are seen by LD_PRELOAD")

ROOT = Path(__file__).parents[2]
SPY = ROOT / "tests/support/network_spy.cpp"
UPLOAD_SECONDS = 9.5
"""From importing ONNX Runtime to its first upload, where it is not switched off."""
RECOMMEND = f"""
import sys, time
from engine import Interaction, Recommender, RecommendRequest
started = time.monotonic()
recommender = Recommender.open(sys.argv[1])
history = [Interaction(item_id) for item_id in recommender.item_ids[:3]]
(answer,) = recommender.recommend([RecommendRequest(history, k=5)])
assert len(answer.items) == 5
time.sleep(started + {UPLOAD_SECONDS + 1} - time.monotonic())
"""
BUILD = """
import sys
import export.build
from export.build_engine import main
sys.exit(main())
"""
PERF = f"""
import sys, time
started = time.monotonic()
import perf.peaks, onnxruntime
time.sleep(started + {UPLOAD_SECONDS + 1} - time.monotonic())
"""
REACH_OUT = """
import contextlib, socket
with socket.socket(type=socket.SOCK_DGRAM) as sending:
    sending.connect(("127.0.0.1", 9))
for host in ("192.0.2.1", "nowhere.invalid"):
    with socket.socket(type=socket.SOCK_DGRAM) as sending, contextlib.suppress(OSError):
        sending.connect((host, 9))
        raise SystemExit(f"{host} was reached")
"""


class Spied:
    """Starts Python in an empty home, and gives what it left there and what it reached for."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._log = folder / "log"
        library = folder / "spy.so"
        flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["c++", *flags, SPY, "-o", library, "-ldl"], check=True)
        inherited = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        folders = {
            f"XDG_{kind}_HOME": f"{self.home}/{kind}" for kind in ("CACHE", "CONFIG", "DATA")
        }
        spying = {"LD_PRELOAD": str(library), "NETWORK_SPY_LOG": str(self._log)}
        self._env = inherited | {"HOME": str(self.home)} | folders | spying

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def calls(self) -> Sequence[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def spied(tmp_path: Path) -> Spied:
    return Spied(tmp_path)


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_spy_sees_what_would_leave_the_machine_and_keeps_it(spied: Spied) -> None:
    finish(spied.start("-c", REACH_OUT))
    assert spied.calls() == ["connected to 192.0.2.1", "looked up nowhere.invalid"]


@pytest.mark.slow
def test_nothing_leaves_the_machine_and_nothing_stays_in_the_home(
    reference_bundle: Path, reference_checkpoint_dir: Path, spied: Spied, tmp_path: Path
) -> None:
    checkpoint = str(reference_checkpoint_dir)
    server = spied.start("-m", "engine", "serve", reference_bundle, "--listen", "127.0.0.1:0")
    threading.Timer(UPLOAD_SECONDS + 3, server.terminate).start()
    finish(
        spied.start("-c", RECOMMEND, reference_bundle),
        spied.start("-c", BUILD, "--checkpoint", checkpoint, "--output", tmp_path / "bundle"),
        spied.start("-c", PERF),
        server,
    )
    assert [path for path in spied.home.rglob("*") if path.is_file()] == []
    assert spied.calls() == []
