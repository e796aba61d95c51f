"""What a program writes reaches any terminal, and what it cannot write ends it quietly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.terminal import INTERRUPTED, READER_LEFT, printable

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from llmsrec import terminal

@terminal.command
def main():
    {body}
    return 0

sys.exit(main())
"""
WRITE = "sys.stdout.write({text!a} * {count})"
SIZES = pytest.mark.parametrize("count", [1, 100_000], ids=["buffered", "beyond the buffer"])


def run(body: str, redirections: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a shell that ends with its exit code, whatever reads its output."""
    shell = f'set -o pipefail; "$0" -c "$1" {redirections}'
    return subprocess.run(
        ["bash", "-c", shell, sys.executable, PROGRAM.format(body=body)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, id="ASCII"),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, id="Latin-1"),
        pytest.param(
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, id="no locale"
        ),
    ],
)
def test_what_an_encoding_lacks_is_escaped(environment: dict[str, str]) -> None:
    done = run(WRITE.format(text="天気 → A\n", count=1), **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u5929\\u6c17 \\u2192 A\n", "")


def test_half_a_surrogate_pair_is_escaped_in_utf_8() -> None:
    done = run(WRITE.format(text="\ud800\udcff\n", count=1), PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\ud800\\udcff\n", "")


def test_own_choice_of_what_becomes_of_it_is_kept() -> None:
    done = run(WRITE.format(text="é\n", count=1), PYTHONIOENCODING="ascii:replace")
    assert (done.returncode, done.stdout, done.stderr) == (0, "?\n", "")


@SIZES
def test_reader_that_left_ends_it_without_a_word(count: int) -> None:
    body = f"import time; time.sleep(0.5); {WRITE.format(text='line', count=count)}"
    done = run(body, "| true")
    assert (done.returncode, done.stdout, done.stderr) == (READER_LEFT, "", "")


@SIZES
def test_full_disk_is_one_line(count: int) -> None:
    done = run(WRITE.format(text="line", count=count), "> /dev/full")
    assert done.stderr == "error: cannot write the output: No space left on device\n"
    assert done.returncode == 1


@SIZES
def test_output_that_is_closed_is_not_needed(count: int) -> None:
    done = run(WRITE.format(text="line", count=count), ">&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_is_an_exit_code() -> None:
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (INTERRUPTED, "")


@pytest.mark.parametrize(
    "body",
    [
        "raise BrokenPipeError(32, 'Broken pipe')",
        "raise OSError(28, 'No space left on device', 'bundle/items')",
    ],
    ids=["a worker's pipe", "a file's disk"],
)
def test_what_befalls_no_output_is_not_taken_for_it(body: str) -> None:
    done = run(body)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@given(st.text())
def test_printable_text_is_one_line_and_keeps_what_can_be_seen(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(character in shown for character in "\n\r\x1b\u202e\u2066")
    if text.isprintable():
        assert shown == text
