"""The published code's files become a checkpoint from the command line, whole or not at all."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from llmsrec import checkpoint
from llmsrec.__main__ import main
from llmsrec.reference_files import read_reference

ROOT = Path(__file__).parents[2]

Import = Callable[..., int]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "imported" / "checkpoint"


@pytest.fixture
def import_reference(
    reference_dir: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Run the command in this process; folders that are not given are the reference's."""

    def run(weights: Path = reference_dir / "llm_srec", llm: Path = reference_dir / "llm") -> int:
        folders = ["--weights", str(weights), "--llm", str(llm), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["llmsrec", "import-reference", *folders])
        return main()

    return run


def copy_files(source: Path, target: Path) -> Path:
    """Copy files without their write protection."""
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def test_reference_becomes_a_checkpoint(reference_dir: Path, output: Path) -> None:
    command = [sys.executable, "-m", "llmsrec", "import-reference", "--output", str(output)]
    folders = ["--weights", str(reference_dir / "llm_srec"), "--llm", str(reference_dir / "llm")]
    done = subprocess.run(
        [*command, *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{output}: 400 items; build a bundle with\n"
        f"python export/build_engine.py --checkpoint {output} --output BUNDLE\n"
    )
    assert [path.name for path in output.parent.iterdir()] == ["checkpoint"]

    files, imported = read_reference(reference_dir / "llm_srec"), checkpoint.load(output)
    torch.testing.assert_close(dict(imported.heads.state_dict()), files.heads, rtol=0, atol=0)
    torch.testing.assert_close(imported.item_table, files.item_table, rtol=0, atol=0)
    assert [item.id for item in imported.catalogue] == [str(number) for number in range(1, 401)]
    assert imported.titles == files.titles
    assert imported.histories == files.histories
    assert imported.llm_source.path == str((reference_dir / "llm").resolve())
    imported.load_model()


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("Golden_llama-3b_1_CLS.pt", "weights lacks *_CLS.pt; copy all files"),
        ("text_name_dict.json.gz", "weights lacks text_name_dict.json.gz"),
    ],
)
def test_a_missing_file_is_named(
    import_reference: Import,
    reference_dir: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    lacking: str,
) -> None:
    output.parent.mkdir()
    weights = copy_files(reference_dir / "llm_srec", output.parent / "weights")
    (weights / name).unlink()
    assert import_reference(weights=weights) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {output.parent}/{lacking}")
    assert error.count("\n") == 1
    assert not output.exists()


def test_an_llm_of_another_width_is_refused_and_leaves_no_checkpoint(
    import_reference: Import,
    reference_dir: Path,
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = copy_files(reference_dir / "llm", tmp_path / "llm")
    config = AutoConfig.from_pretrained(other, hidden_size=96)
    AutoModel.from_config(config).save_pretrained(other)
    assert import_reference(llm=other) == 1
    error = capsys.readouterr().err
    assert "the LLM is 96 wide, the heads were trained for 64; name the LLM that" in error
    assert not output.parent.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_llm_that_is_not_whole_is_refused(
    import_reference: Import,
    reference_dir: Path,
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    other = copy_files(reference_dir / "llm", tmp_path / "llm")
    (other / name).unlink()
    assert import_reference(llm=other) == 1
    assert f"error: the LLM folder {other} lacks" in capsys.readouterr().err
    assert not output.parent.exists()


def test_a_folder_of_something_else_is_left_alone(
    import_reference: Import, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output.mkdir(parents=True)
    (output / "thesis.txt").write_text("mine")
    assert import_reference() == 1
    assert f"error: {output} exists and is no checkpoint; remove" in capsys.readouterr().err
    assert (output / "thesis.txt").read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(
    import_reference: Import, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert import_reference() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "error: [Errno 27] File too large" in capsys.readouterr().err
    assert not output.parent.exists()
