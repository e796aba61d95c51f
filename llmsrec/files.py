"""Files and folders that are whole or absent: written aside, flushed to disk, then renamed.

Whoever writes `NAME` holds a lock on `.NAME.lock` beside it, which ends with its process.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from llmsrec.errors import OutputError

_RESERVED = (".lock", ".partial", ".replaced")
_claimed_here: set[Path] = set()
"""What this process has claimed."""


@contextmanager
def claimed(path: Path) -> Iterator[Path]:
    """Let no other process write `path` while the block runs, and yield what it resolves to.

    The folders above are made, and removed where they stay empty. A process may claim again what
    it has claimed.

    Raises:
        OutputError: another process is writing there, or nobody can.
    """
    path = _resolved(path)
    if path in _claimed_here:
        yield path
        return
    missing = [parent for parent in path.parents if not parent.exists()]
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(path, lock)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write {path}: {error.strerror}; mend the path, its permissions or the space"
            " there, or name another one"
        ) from error
    _claimed_here.add(path)
    try:
        yield path
    finally:
        _claimed_here.remove(path)
        lock.unlink(missing_ok=True)
        file.close()
        with contextlib.suppress(OSError):  # one of them is in use
            for parent in missing:
                parent.rmdir()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block succeeds.

    Raises:
        OutputError: another process is writing `path`.
    """
    with claimed(path) as target:
        aside = target.with_name(f".{target.name}.partial")
        _remove(aside)
        try:
            yield aside
            flush_to_disk(aside)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when the block succeeds.

    The old folder is renamed out of the way and removed once the new one is in its place. A kill
    between the two renames leaves both whole, as `.NAME.replaced` and `.NAME.partial`; the next
    call puts the old one back before it starts.

    Raises:
        OutputError: another process is writing `folder`.
    """
    with claimed(folder) as target:
        name = target.name
        aside, replaced = (target.with_name(f".{name}.{end}") for end in ("partial", "replaced"))
        _settle(target, aside, replaced)
        aside.mkdir()
        try:
            yield aside
            for file in aside.iterdir():
                flush_to_disk(file)
            if target.exists():
                target.rename(replaced)
            aside.rename(target)
        finally:
            _settle(target, aside, replaced)


def require_apart(output: Path, **inputs: Path) -> None:
    """Refuse an output in, at or around what it is made from.

    Raises:
        OutputError: naming both.
    """
    place = _resolved(output)
    for name, path in inputs.items():
        source = _resolved(path)
        if place == source or source in place.parents or place in source.parents:
            raise OutputError(
                f"--output {output} and the {name} {path} are one folder, or one lies within the"
                " other; name an output apart from it"
            )


def flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolved(path: Path) -> Path:
    try:
        place = path.resolve()
    except RuntimeError as error:  # of a link that leads to itself
        raise OutputError(f"{path} is a link that leads to itself; name another path") from error
    if not place.name or (place.name.startswith(".") and place.name.endswith(_RESERVED)):
        raise OutputError(
            f"{path}: a name such as .NAME.partial is kept for unfinished work; name another path"
        )
    return place


def _lock(path: Path, lock: Path) -> FileIO:
    """Lock the file beside `path` and write this process's id into it, for others to read."""
    while True:
        file = lock.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise OutputError(
                f"another process ({_read_holder(lock)}) is writing {path}; wait for its end, or"
                " name another one"
            ) from error
        if not _is_at(file, lock):  # its last holder has removed it meanwhile
            file.close()
            continue
        try:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        except OSError:
            lock.unlink()
            file.close()
            raise
        return file


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(lock: Path) -> str:
    try:
        return f"id {lock.read_text() or 'unknown'}"
    except OSError:
        return "that ends just now"


def _settle(folder: Path, aside: Path, replaced: Path) -> None:
    """Remove what is half written; put the old folder back where no new one took its place."""
    _remove(aside)
    if replaced.exists():
        replaced.rename(aside if folder.exists() else folder)
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
