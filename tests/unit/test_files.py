"""Files are whole or absent, whatever ends their writing."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from llmsrec.errors import OutputError
from llmsrec.files import claimed, replaced_whole, require_apart, written_aside

Writer = Callable[[Path], AbstractContextManager[Path]]


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


WRITER = """
import pathlib, sys, time
from llmsrec import files
with getattr(files, sys.argv[1])(pathlib.Path(sys.argv[2])) as aside:
    if sys.argv[1] == "written_aside":
        aside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
WRITERS = ["written_aside", "replaced_whole", "claimed"]


@contextmanager
def writing(kind: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a process in the middle of writing `path`, and kill it in the end."""
    command = [sys.executable, "-c", WRITER, kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("other", [written_aside, replaced_whole, claimed])
def test_a_second_writer_is_refused_at_once_and_harms_nothing(
    tmp_path: Path, kind: str, other: Writer
) -> None:
    path = tmp_path / "output"
    with writing(kind, path) as first:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(OutputError) as refusal, other(path):
            pytest.fail("it writes")
        assert sorted(tmp_path.iterdir()) == before
    expected = f"another process (id {first.pid}) is writing {path}; wait for its end, or name"
    assert str(refusal.value).startswith(expected)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_killed_writer_locks_nobody_out_and_its_leftovers_go(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "output"
    with writing(kind, path):
        pass
    with written_aside(path) as aside:
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("output")
    with (
        writing("replaced_whole", tmp_path / "output"),
        pytest.raises(OutputError, match=f"is writing {tmp_path / 'output'}"),
        replaced_whole(tmp_path / "link"),
    ):
        pytest.fail("it writes")


def test_a_link_is_followed_also_to_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    for content in ("first", "second"):
        with replaced_whole(tmp_path / "link") as aside:
            (aside / "file").write_text(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "new" / "file").read_text() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "new"]


def test_what_a_process_has_claimed_it_may_write(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with claimed(path), replaced_whole(path) as aside:
        (aside / "file").write_text("whole")
    assert (path / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_claim_without_a_writing_leaves_no_folder(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "b" / "output"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/output", "cannot write .*/file/output: (Not a directory|File exists); mend the"),
        ("loop", "loop is a link that leads to itself; name another path"),
        (".bundle.partial", "is kept for unfinished work; name another path"),
        (".bundle.lock", "is kept for unfinished work; name another path"),
        ("/", "/: a name such as"),
        ("/proc/output", "cannot write /proc/output: .*; mend the path, its permissions"),
    ],
    ids=["beneath a file", "link to itself", "unfinished", "a lock", "root", "where none can"],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=message), replaced_whole(tmp_path / name):
        pytest.fail("it writes")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("output", ["source", "source/inside", "source/../source", ".", "link"])
def test_an_output_that_is_not_apart_from_its_source_is_refused(
    tmp_path: Path, output: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to("source")
    with pytest.raises(OutputError, match=r"--output .* and the checkpoint .*source are one"):
        require_apart(tmp_path / output, checkpoint=tmp_path / "source")
    require_apart(tmp_path / "source-2", checkpoint=tmp_path / "source")
