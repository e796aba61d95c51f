"""A file that a user has on disk, as it is or compressed by gzip, with a bar of what is read."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from rich.progress import Progress

from llmsrec.errors import DataError

_GZIP = b"\x1f\x8b"
_FORMAT_OF_START = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
_BUFFER_BYTES = 1 << 20


def check_source_file(path: Path, option: str) -> None:
    """Find out before anything is read, for reading may take minutes.

    Raises:
        DataError: the path names no file.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; name a file with {option}")
    if not path.exists():
        raise DataError(f"cannot read {path}: there is no such file; name one with {option}")


@contextmanager
def opened(path: Path, bars: Progress) -> Iterator[BinaryIO]:
    """Open a file; whether it is compressed is seen by its first bytes, not by its name.

    Raises:
        DataError: it cannot be read to its end, or is of another format.
    """
    try:
        with (
            bars.open(path, "rb", description=path.name) as file,
            io.BufferedReader(cast("io.RawIOBase", file), _BUFFER_BYTES) as packed,
        ):
            start = packed.peek(8)
            _check_format(path, start)
            if start.startswith(_GZIP):
                with io.BufferedReader(gzip.open(packed), _BUFFER_BYTES) as unpacked:
                    yield unpacked
            else:
                yield packed
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut off or damaged ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; mend this") from error


def _check_format(path: Path, start: bytes) -> None:
    for magic, described in _FORMAT_OF_START.items():
        if start.startswith(magic):
            raise DataError(f"{path} is {described}; expected UTF-8 text, as it is or in gzip")
