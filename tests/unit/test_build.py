"""A build ends with a whole bundle in place, or with the old one untouched."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress, TaskID
from tokenizers import Tokenizer
from torch import Tensor

from engine import Interaction, Recommender, RecommendRequest
from export.build import BuildOptions, build
from export.errors import BuildError
from llmsrec.checkpoint import Checkpoint
from llmsrec.errors import OutputError
from llmsrec.model import LLMSRec
from llmsrec.tokens import PromptArrays

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, "export/build_engine.py"]
NUM_FILES = 8
DEADLINE_S = 120
LIMITED_BLOCKS = 1000
"""Of 1024 bytes: more than the graph of the reference's encoder, less than its weights."""


class DriftingModel(LLMSRec):
    """Encodes users otherwise than the graph that is exported with its weights."""

    def user_vectors(self, prompts: Sequence[PromptArrays]) -> Tensor:
        return super().user_vectors(prompts).roll(1, dims=-1)


class DriftingCheckpoint(Checkpoint):
    def load_model(self, dtype: torch.dtype = torch.float32) -> tuple[LLMSRec, Tokenizer]:
        model, tokenizer = super().load_model(dtype)
        return DriftingModel(model.llm, model.heads, model.item_table).eval(), tokenizer


class FullDisk(Progress):
    """Lets no file grow beyond 1 MB from the moment on that the bundle is being written."""

    def update(self, task_id: TaskID, **changes: Any) -> None:  # noqa: ANN401
        super().update(task_id, **changes)
        if changes.get("description") == "writing the bundle":
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))


@pytest.fixture
def old_bundle(reference_bundle: Path, tmp_path: Path) -> Iterator[Path]:
    """An older bundle at the place where a new one is built."""
    copied = shutil.copytree(reference_bundle, tmp_path / "bundle")
    (copied / "README.md").write_text("the old one")
    yield copied
    shutil.rmtree(tmp_path, ignore_errors=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assert_alone(path: Path) -> None:
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def assert_serves(bundle: Path) -> None:
    opened = Recommender.open(bundle)
    (answer,) = opened.recommend([RecommendRequest([Interaction("1")])])
    opened.close()
    assert len(answer.items) == 10


def test_a_model_that_the_engine_does_not_match_is_refused_and_leaves_the_old_bundle(
    reference_checkpoint: Checkpoint, old_bundle: Path
) -> None:
    before = contents(old_bundle)
    drifting = DriftingCheckpoint(**vars(reference_checkpoint))
    with pytest.raises(BuildError) as caught:
        build(drifting, old_bundle, BuildOptions(), Progress(disable=True))
    assert str(caught.value).startswith("the fp32 engine differs too much from PyTorch: cosine of ")
    assert "overlap@10 0." in str(caught.value)
    assert "item vectors" not in str(caught.value)
    assert contents(old_bundle) == before
    assert_alone(old_bundle)


@pytest.mark.parametrize("name", ["notes.txt", "config.json", None])
def test_an_output_that_is_no_bundle_is_refused_untouched(
    reference_checkpoint: Checkpoint, tmp_path: Path, name: str | None
) -> None:
    output = tmp_path / "output"
    if name is None:
        output.write_text("mine")
    else:
        output.mkdir()
        (output / name).write_text("mine")
    with pytest.raises(BuildError, match=f"{output} exists and is no bundle; remove it or name"):
        build(reference_checkpoint, output, BuildOptions(), Progress(disable=True))
    assert (output / (name or "")).read_text() == "mine"
    assert_alone(output)


def test_a_checkpoint_without_histories_is_refused(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    silent = replace(reference_checkpoint, histories=[])
    with pytest.raises(BuildError, match="holds no histories to compare the engine"):
        build(silent, tmp_path / "bundle", BuildOptions(), Progress(disable=True))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_the_bundle_is_written_leaves_nothing(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large"):
            build(reference_checkpoint, tmp_path / "bundle", BuildOptions(), FullDisk(disable=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_error_with_its_remedy_and_leaves_the_old_bundle(
    reference_checkpoint_dir: Path, old_bundle: Path
) -> None:
    before = contents(old_bundle)
    arguments = ["--checkpoint", str(reference_checkpoint_dir), "--output", str(old_bundle)]
    limited = ["bash", "-c", f'ulimit -f {LIMITED_BLOCKS}; exec "$@"', "limited"]
    command = [*limited, *SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "error: [Errno 27] File too large; free some space or mend the path;"
        " nothing was left half written"
    )
    assert "Traceback" not in done.stderr
    assert contents(old_bundle) == before
    assert_alone(old_bundle)


def kill_when_there_is(path: Path, arguments: list[str]) -> None:
    """Build in a process of its own, and kill it as soon as it has written `path`."""
    pipe, deadline = subprocess.DEVNULL, time.monotonic() + DEADLINE_S
    with subprocess.Popen([*SCRIPT, *arguments], cwd=ROOT, stdout=pipe, stderr=pipe) as process:
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert path.exists()


def test_a_killed_build_leaves_the_old_bundle_and_the_next_replaces_it(
    reference_checkpoint: Checkpoint, reference_checkpoint_dir: Path, old_bundle: Path
) -> None:
    before = contents(old_bundle)
    arguments = ["--checkpoint", str(reference_checkpoint_dir), "--output", str(old_bundle)]
    kill_when_there_is(old_bundle.parent / ".bundle.partial" / "encoder.onnx", arguments)
    assert contents(old_bundle) == before

    manifest = build(reference_checkpoint, old_bundle, BuildOptions(), Progress(disable=True))
    assert len(list(old_bundle.iterdir())) == NUM_FILES
    assert manifest.num_items == 400
    assert_alone(old_bundle)
    assert_serves(old_bundle)


def test_a_killed_first_build_leaves_no_bundle(
    reference_checkpoint_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "bundle"
    arguments = ["--checkpoint", str(reference_checkpoint_dir), "--output", str(output)]
    kill_when_there_is(output.parent / ".bundle.partial", arguments)
    assert not output.exists()


def test_a_second_build_into_the_same_place_is_refused_and_the_first_ends_well(
    reference_checkpoint: Checkpoint, reference_checkpoint_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle"
    arguments = ["--checkpoint", str(reference_checkpoint_dir), "--output", str(output)]
    pipe, deadline = subprocess.PIPE, time.monotonic() + DEADLINE_S
    with subprocess.Popen([*SCRIPT, *arguments], cwd=ROOT, stdout=pipe, stderr=pipe) as first:
        while not (tmp_path / ".bundle.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        expected = rf"another process \(id {first.pid}\) is writing {output}; wait for its end"
        with pytest.raises(OutputError, match=expected):
            build(reference_checkpoint, output, BuildOptions(), Progress(disable=True))
        first.communicate()
    assert first.returncode == 0
    assert_alone(output)
    assert_serves(output)


@pytest.mark.parametrize("output", ["", "bundle"], ids=["the checkpoint", "inside of it"])
def test_an_output_that_is_not_apart_from_the_checkpoint_is_refused(
    reference_checkpoint_dir: Path, output: str, tmp_path: Path
) -> None:
    source = shutil.copytree(reference_checkpoint_dir, tmp_path / "checkpoint")
    before = contents(source)
    arguments = ["--checkpoint", str(source), "--output", str(source / output)]
    done = subprocess.run(
        [*SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"error: --output {source / output} and the checkpoint {source} are one" in done.stderr
    assert contents(source) == before
