"""A training's state survives a kill at any moment and fits only the training that wrote it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llmsrec.errors import CheckpointError
from llmsrec.training_state import Origin, load_state, save_state

ORIGIN: Origin = {"learning_rate": 1e-3, "dataset_sha256": "abc"}

SAVE_FOREVER = """
import sys
from pathlib import Path
import torch
from llmsrec.training_state import save_state
for step in range(10**9):
    state = {"step": step, "weights": torch.full((500_000,), float(step))}
    save_state(Path(sys.argv[1]), state, {})
"""


def test_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    weights = torch.nn.Parameter(torch.randn(3))
    optimiser = torch.optim.Adam([weights])
    weights.sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    state = {
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "best": {"epoch": 2, "metrics": [0.5, None], "name": "x"},
    }
    save_state(tmp_path / "new" / "state", state, ORIGIN)
    loaded = load_state(tmp_path / "new" / "state", ORIGIN)
    assert loaded is not None
    assert loaded["best"] == state["best"]
    assert loaded["rng"].equal(state["rng"])
    moments = optimiser.state_dict()["state"][0]["exp_avg"]
    assert loaded["optimiser"]["state"][0]["exp_avg"].equal(moments)


def test_absent_state_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state", ORIGIN) is None


@pytest.mark.parametrize(
    ("origin", "problem"),
    [
        ({**ORIGIN, "learning_rate": 0.1}, r"learning_rate was 0\.001 and is 0\.1 now"),
        ({**ORIGIN, "dataset_sha256": "def"}, "dataset_sha256 was 'abc' and is 'def' now"),
        ({**ORIGIN, "seed": 0}, "seed was None and is 0 now"),
        ({"learning_rate": 1e-3}, "dataset_sha256 was 'abc' and is None now"),
    ],
    ids=["hyper-parameter", "dataset", "added", "removed"],
)
def test_state_of_another_training_is_refused(
    tmp_path: Path, origin: dict[str, str | float], problem: str
) -> None:
    save_state(tmp_path / "state", {}, ORIGIN)
    with pytest.raises(CheckpointError, match=f"{problem}.*--restart.*--output"):
        load_state(tmp_path / "state", origin)


@pytest.mark.parametrize("kept_share", [0.0, 0.3, 0.99])
def test_truncated_state_is_refused(tmp_path: Path, kept_share: float) -> None:
    path = tmp_path / "state"
    save_state(path, {"weights": torch.zeros(1000)}, ORIGIN)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept_share)])
    with pytest.raises(CheckpointError, match=r"is no state of a training.*--restart"):
        load_state(path, ORIGIN)


def test_failed_save_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, {"step": 1}, ORIGIN)
    with pytest.raises(AttributeError):
        save_state(path, {"step": lambda: 2}, ORIGIN)
    assert load_state(path, ORIGIN) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("delay_s", [0.05, 0.21])
def test_kill_leaves_a_whole_state(tmp_path: Path, delay_s: float) -> None:
    path = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(path)]) as writer:
        while not path.exists():
            time.sleep(0.005)
        time.sleep(delay_s)
        writer.kill()
    state = load_state(path, {})
    assert state is not None
    assert (state["weights"] == state["step"]).all()
