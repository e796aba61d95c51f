"""Files and folders that are whole or absent: written aside, flushed to disk, then renamed."""

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block succeeds."""
    _remove_leftovers(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        flush_to_disk(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when the block succeeds.

    The old folder is renamed out of the way and removed once the new one is in its place. A kill
    between the two renames leaves both whole, as `.NAME.replaced` and `.NAME.partial`; the next
    call puts the old one back before it starts.
    """
    folder = folder.resolve()
    aside, replaced = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "replaced"))
    _settle(folder, aside, replaced)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.iterdir():
            flush_to_disk(file)
        if folder.exists():
            folder.rename(replaced)
        aside.rename(folder)
    finally:
        _settle(folder, aside, replaced)


def flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed had half written for `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        pid = left.name.removeprefix(f".{path.name}.").removesuffix(".partial")
        if not (pid.isascii() and pid.isdigit() and len(pid) < 10):
            continue  # of another file, or another's
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except PermissionError:
            continue  # another user's, and alive


def _settle(folder: Path, aside: Path, replaced: Path) -> None:
    """Remove what is half written; put the old folder back where no new one took its place."""
    shutil.rmtree(aside, ignore_errors=True)
    if replaced.exists():
        replaced.rename(aside if folder.exists() else folder)
        shutil.rmtree(aside, ignore_errors=True)
