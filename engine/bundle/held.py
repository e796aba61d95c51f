"""Keeps what was verified: no later change of a bundle's files reaches what was loaded of them.

A file is verified, then read by whatever loads it. That nothing changed in between is told by the
file's state, which every write moves on. Loaders map large files, and a mapping shows what others
write, and ends in SIGBUS where they cut the file: so each is replaced by memory of this process.
"""

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.errors import BackendUnavailable, BundleError

MAPPINGS = Path("/proc/self/maps")

_MOVE_TO = 1 | 2
"""MREMAP_MAYMOVE and MREMAP_FIXED. Source: mremap(2)."""
_FAILED = ctypes.c_void_p(-1).value
_LIBC = ctypes.CDLL(None)
_LIBC.mmap.restype = _LIBC.mremap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.mremap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
]


class FileState(NamedTuple):
    """What differs once a file has been written to, cut or replaced."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class VerifiedFiles:
    """The files of a bundle and the state in which each was verified."""

    bundle: Path
    states: Mapping[str, FileState]

    def hold(self) -> None:
        """Put this process's own memory in place of all that is mapped of them.

        Raises:
            BundleError: a file is not what it was when it was verified.
            BackendUnavailable: there is no memory for it.
        """
        paths = {os.fsencode((self.bundle / name).resolve()) for name in self.states}
        for mapping in _read_mappings():
            if mapping.path in paths:
                _replace_by_copy(mapping.first, mapping.end - mapping.first)
        self.require_unchanged()

    def require_unchanged(self) -> None:
        """Look whether the files are still those that were verified.

        Raises:
            BundleError: one of them is not.
        """
        for name, state in self.states.items():
            path = self.bundle / name
            try:
                is_unchanged = read_state(path) == state
            except OSError:
                is_unchanged = False
            if not is_unchanged:
                raise BundleError(
                    f"{path} changed while it was being read; write a new bundle beside the old"
                    " one, rename it, then try again"
                )


class _Mapping(NamedTuple):
    first: int
    end: int
    path: bytes


def read_state(path: Path) -> FileState:
    """Look at a file.

    Raises:
        OSError: there is none, or what is there is a device, a pipe or a folder.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return FileState(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


def _read_mappings() -> Iterator[_Mapping]:
    """Give this process's mappings. Source: proc_pid_maps(5)."""
    for line in MAPPINGS.read_bytes().splitlines():
        addresses, _, _, _, _, *path = line.split(maxsplit=5)
        first, end = (int(address, 16) for address in addresses.split(b"-"))
        yield _Mapping(first, end, b"".join(path).replace(rb"\012", b"\n"))


def _replace_by_copy(first: int, num_bytes: int) -> None:
    """Copy mapped memory and move the copy to where it was, in one step. Source: mremap(2)."""
    usage = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    copy = _LIBC.mmap(None, num_bytes, mmap.PROT_READ | mmap.PROT_WRITE, usage, -1, 0)
    if copy == _FAILED:
        raise BackendUnavailable(f"no memory for {num_bytes} bytes of the encoder's weights")
    ctypes.memmove(copy, first, num_bytes)
    if _LIBC.mremap(copy, num_bytes, num_bytes, _MOVE_TO, first) != first:
        raise BackendUnavailable("this kernel does not move memory to a given place (mremap)")
