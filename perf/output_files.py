"""Files that a command was asked to write: found to be possible before the run, written after."""

from pathlib import Path

from llmsrec.files import written_aside
from perf.errors import MeasureError


def require_folders(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise MeasureError(f"{path}: there is no folder {path.parent}; make it first")


def write_file(path: Path, content: bytes) -> None:
    with written_aside(path) as aside:
        aside.write_bytes(content)
