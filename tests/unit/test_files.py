"""Files are whole or absent, whatever ends their writing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmsrec.files import written_aside


def test_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeError), written_aside(path) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stray", [".file.bak.partial", ".file.99999999999999999999.partial"])
def test_stray_name_is_left_alone(tmp_path: Path, stray: str) -> None:
    (tmp_path / stray).write_text("not ours")
    with written_aside(tmp_path / "file") as aside:
        aside.write_text("whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["file", stray])


HALF_WRITER = """
import pathlib, sys, time
from llmsrec.files import written_aside
with written_aside(pathlib.Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_next_writer_removes_what_a_killed_one_left_but_nothing_of_a_living_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    command = [sys.executable, "-c", HALF_WRITER, str(path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as killed,
        subprocess.Popen(command, stdout=subprocess.PIPE) as living,
    ):
        for process in (killed, living):
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        with written_aside(path) as aside:
            aside.write_text("whole")
        left = {each.name for each in tmp_path.iterdir()}
        assert left == {"file", f".file.{living.pid}.partial"}
        living.kill()
    assert path.read_text() == "whole"
