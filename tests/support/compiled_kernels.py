"""The kernels of ONNX Runtime's operators, compiled once and called through ctypes."""

import ctypes
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("operator_kernels.cpp")
_ROOT = _SOURCE.parents[2]
_FLAGS = ["-std=c++20", "-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", "-fPIC"]
_X86_FLAGS = {
    "kernels_avx2.cpp": ["-march=x86-64-v3"],
    "kernels_avx512.cpp": ["-march=x86-64-v4", "-mavx512vnni"],
}


class QuantizeTask(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("source", "operand", "values", "scales")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_blocks")),
        ("epsilon", ctypes.c_float),
    )


class MultiplyTask(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "scales", "weight", "weight_scales")),
        *((name, ctypes.c_void_p) for name in ("addend", "product")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_blocks", "stride")),
    )


class AttendTask(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values", "attended", "weights")),
        *((name, ctypes.c_int64) for name in ("first_row", "num_rows", "num_panels", "dim")),
        *((name, ctypes.c_int64) for name in ("query_stride", "value_stride")),
        ("scale", ctypes.c_float),
    )


class Functions(ctypes.Structure):
    _fields_ = (
        ("instruction_set", ctypes.c_char_p),
        *((name, ctypes.CFUNCTYPE(None, ctypes.c_void_p)) for name in ("quantize", "normalize")),
        *((name, ctypes.CFUNCTYPE(None, ctypes.c_void_p)) for name in ("gate", "multiply")),
        ("attend", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


@cache
def supported() -> dict[str, Functions]:
    """Give the kernels of each instruction set, from the narrowest vectors to the widest."""
    library = _library()
    library.supported_kernels.restype = ctypes.POINTER(Functions)
    found: dict[str, Functions] = {}
    while pointer := library.supported_kernels(ctypes.c_size_t(len(found))):
        found[pointer.contents.instruction_set.decode()] = pointer.contents
    return found


def best() -> str:
    library = _library()
    library.best_kernels.restype = ctypes.POINTER(Functions)
    name: str = library.best_kernels().contents.instruction_set.decode()
    return name


@cache
def _library() -> ctypes.CDLL:
    sources = [_SOURCE, *sorted((_ROOT / "engine/native/operators").glob("kernels*.cpp"))]
    with tempfile.TemporaryDirectory() as folder:
        objects = [_compile(source, Path(folder)) for source in sources]
        library = f"{folder}/kernels.so"
        subprocess.run(["c++", "-shared", *objects, "-o", library], check=True)
        return ctypes.CDLL(library)


def _compile(source: Path, folder: Path) -> Path:
    compiled = folder / f"{source.stem}.o"
    own_flags = _X86_FLAGS.get(source.name, []) if platform.machine() in {"x86_64", "AMD64"} else []
    command: list[str | Path] = [
        "c++",
        *_FLAGS,
        *own_flags,
        f"-I{_ROOT}",
        "-c",
        source,
        "-o",
        compiled,
    ]
    subprocess.run(command, check=True)
    return compiled
