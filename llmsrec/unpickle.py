"""Reads the published code's pickles as data: whatever else they want to call is refused."""

import argparse
import collections
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import serialization

from llmsrec.errors import CheckpointError


class _Dtype:
    """Stands for NumPy's description of a number, without NumPy's code."""

    def __init__(self, kind: str, *_: object) -> None:
        if not re.fullmatch("[iuf][1248]|b1", kind):
            raise pickle.UnpicklingError(f"a NumPy {kind!r} is no number")
        self.kind = kind
        self.order = "<"

    def __setstate__(self, state: tuple[object, str, *tuple[object, ...]]) -> None:
        self.order = "" if state[1] == "|" else state[1]


def _number(dtype: _Dtype, content: bytes | str) -> object:
    """Read one of NumPy's numbers; Python 2 kept its bytes as text."""
    packed = content.encode("latin-1") if isinstance(content, str) else content
    number: object = np.frombuffer(packed, dtype.order + dtype.kind, 1)[0].item()
    return number


_DATA_GLOBALS: dict[str, Callable[..., object]] = {
    "__builtin__.dict": dict,
    "builtins.dict": dict,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}
_TORCH_GLOBALS = frozenset(
    {
        "argparse.Namespace",
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.BFloat16Storage",
        "torch.DoubleStorage",
        "torch.FloatStorage",
        "torch.HalfStorage",
        "torch.LongStorage",
        "torch.device",
    }
)
_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading random bytes can raise."""


def load_torch(path: Path) -> object:
    """Read a zip file of `torch.save` onto the CPU: tensors, containers, `argparse.Namespace`.

    Raises:
        CheckpointError: the file is damaged, or wants to call anything else.
    """
    try:
        refused = _globals_of(path) - _TORCH_GLOBALS
        if not refused:
            with serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise _damaged(path, "zip file of torch.save", error) from error
    raise _refused(path, ", ".join(sorted(refused)))


def load_pickle(path: Path) -> object:
    """Read a plain pickle of numbers, strings, lists and dictionaries.

    Raises:
        CheckpointError: the file is damaged, or wants to call anything else.
    """
    try:
        with path.open("rb") as file:
            return _DataUnpickler(file, path).load()
    except _DAMAGE as error:
        raise _damaged(path, "plain pickle", error) from error


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        called = f"{module}.{name}"
        if called not in _DATA_GLOBALS:
            raise _refused(self._path, called)
        return _DATA_GLOBALS[called]


def _globals_of(path: Path) -> set[str]:
    """List what a torch file wants to call, to name it; `torch.load` refuses on its own."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        program = archive.read(names[0])
    called: set[str] = set()
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name == "GLOBAL":
            called.add(str(argument).replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            called.add(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
    return called


def _refused(path: Path, called: str) -> CheckpointError:
    return CheckpointError(
        f"{path} wants to call {called}; refused, because loading a model needs no such call:"
        " take the file from a source that you trust"
    )


def _damaged(path: Path, expected: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(f"{path} is no whole {expected} ({reason}); copy it again")
