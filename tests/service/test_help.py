"""Asking a command line for help or its version waits for no framework."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

LLMSREC_COMMANDS = (
    "prepare",
    "train-sasrec",
    "train",
    "refine",
    "evaluate",
    "import-reference",
)
ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {"torch", "transformers", "optimum", "onnx", "matplotlib"}
COMMANDS = {
    "engine": ["-m", "engine"],
    "llmsrec": ["-m", "llmsrec"],
    "perf": ["-m", "perf"],
    "build": ["export/build_engine.py"],
}
DETAILS = {"engine": ["recommend"], "llmsrec": ["prepare"], "perf": ["load"]}
"""A command of each program that has some."""
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""

every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", LLMSREC_COMMANDS)
def test_help_of_a_training_waits_for_no_framework(name: str) -> None:
    done = run("-c", WITHOUT_TORCH, "llmsrec", name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m llmsrec {name} ")


@every_command
def test_help_imports_no_framework(command: list[str]) -> None:
    done = run("-X", "importtime", *command, "--help")
    assert (done.returncode, done.stdout.split()[0]) == (0, "usage:")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported.isdisjoint(SLOW_TO_IMPORT)


@every_command
def test_help_reaches_a_terminal_without_unicode(command: list[str]) -> None:
    environ = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, *command, *DETAILS.get(command[-1], ()), "--help"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@every_command
def test_version_is_that_of_the_distribution(command: list[str]) -> None:
    done = run(*command, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"llmsrec-engine {version('llmsrec-engine')}\n"


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("llmsrec", ["evaluate", "c", "--dataset", "d"], "train"),
        ("export.build_engine", ["--checkpoint", "c", "--output", "o"], "export"),
    ],
)
def test_missing_framework_is_one_error_with_its_remedy(
    module: str, arguments: list[str], extra: str
) -> None:
    done = run("-c", WITHOUT_TORCH, module, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert f"pip install 'llmsrec-engine[{extra}]'" in done.stderr
