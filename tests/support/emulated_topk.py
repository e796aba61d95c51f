"""The GPU's masked top-k on the host: its kernels' code, compiled for the processor."""

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from test_topk import Case

from engine.query import Ranking

ITEM_DTYPES = ["float32", "float16", "bfloat16"]
STREAM = 1
_GUARD_BYTES = 4096
_GUARD = 0xA5


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "N", "D", "max_k")),
        ("item_type", ctypes.c_int),
    )


class _Buffers(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("queries", "items", "excluded_rows", "excluded_offsets", "k", "rows", "scores")
    )


@dataclass(frozen=True)
class Launch:
    """How the work is split, in which order a block's threads run, and what lay in the memory."""

    num_blocks: int = 1
    is_wide: bool = False
    is_reversed: bool = False
    workspace_byte: int = _GUARD


def rounded(search: Case, item_dtype: str) -> Case:
    """Keep of the items what their dtype holds."""
    items = search.items
    if item_dtype == "float16":
        items = items.astype(np.float16).astype(np.float32)
    if item_dtype == "bfloat16":
        items = (items.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return Case(search.users, items, search.excluded_rows, search.k)


def stored(items: NDArray[np.float32], item_dtype: str) -> NDArray[np.generic]:
    """Store rounded items as their dtype."""
    if item_dtype == "float16":
        return items.astype(np.float16)
    if item_dtype == "bfloat16":
        return (items.view(np.uint32) >> 16).astype(np.uint16)
    return items


def inputs(search: Case, item_dtype: str) -> list[NDArray[np.generic]]:
    """List the arrays that the kernels read, in the order of their arguments."""
    offsets = np.zeros(len(search.excluded_rows) + 1, np.int64)
    np.cumsum([len(rows) for rows in search.excluded_rows], out=offsets[1:])
    return [
        np.ascontiguousarray(search.users),
        np.ascontiguousarray(stored(search.items, item_dtype)),
        np.concatenate([np.empty(0, np.int32), *search.excluded_rows]),
        offsets,
        np.array(search.k, np.int32),
    ]


def found(rows: NDArray[np.int32], scores: NDArray[np.float32]) -> list[Ranking]:
    """Cut the places without an item off, once they are seen to hold none."""
    assert ((rows < 0) == np.isneginf(scores)).all()
    counts = np.count_nonzero(rows >= 0, axis=1)  # [B]
    assert all((rows[query, count:] == -1).all() for query, count in enumerate(counts))
    return [(rows[query, :count], scores[query, :count]) for query, count in enumerate(counts)]


class EmulatedTopK:
    """Compiles the kernels into `folder` when made."""

    def __init__(self, folder: Path) -> None:
        source = Path(__file__).with_name("topk_emulation.cpp")
        library = folder / "topk_emulation.so"
        flags = ["-std=c++20", "-O2", "-march=native", "-Wall", "-Wextra", "-Werror"]
        include = f"-I{source.parents[2]}"
        command = ["c++", *flags, include, "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(library))
        self.library.workspace_bytes.restype = ctypes.c_size_t
        self.library.widen_float16.restype = ctypes.c_float

    def rank(self, search: Case, item_dtype: str, launch: Launch | None = None) -> list[Ranking]:
        """Rank as `Case.run` does; fails where a kernel writes beyond its workspace."""
        launch = launch or Launch(is_wide=len(search.users) > 16)
        max_k = max(search.k, default=0)
        (num_queries, dim), num_items = search.users.shape, len(search.items)
        item_type = ITEM_DTYPES.index(item_dtype)
        shape = _Shape(num_queries, num_items, dim, max_k, item_type)
        num_bytes = self.library.workspace_bytes(ctypes.byref(shape))
        workspace = np.full(num_bytes + _GUARD_BYTES, _GUARD, np.uint8)
        workspace[:num_bytes] = launch.workspace_byte
        rows = np.full((num_queries, max_k), 7, np.int32)
        scores = np.full((num_queries, max_k), np.nan, np.float32)
        arrays = [*inputs(search, item_dtype), rows, scores]
        self.library.masked_topk(
            ctypes.byref(shape),
            ctypes.byref(_Buffers(*(array.ctypes.data for array in arrays))),
            ctypes.c_void_p(workspace.ctypes.data),
            ctypes.c_int64(launch.num_blocks),
            ctypes.c_bool(launch.is_wide),
            ctypes.c_bool(launch.is_reversed),
        )
        assert (workspace[num_bytes:] == _GUARD).all()
        return found(rows, scores)

    def widen_float16(self, bits: int) -> float:
        return float(self.library.widen_float16(ctypes.c_uint16(bits)))


class EmulatedKernels:
    """In the place of `_native_cuda`: the same code on the host."""

    def __init__(self, emulated: EmulatedTopK) -> None:
        self._library = emulated.library
        self.num_calls = 0

    def TopKShape(self, **sizes: object) -> SimpleNamespace:  # noqa: N802
        names = ("num_queries", "num_items", "dim", "max_k")
        item_type = ITEM_DTYPES.index(str(sizes["item_dtype"]))
        described = _Shape(*(sizes[name] for name in names), item_type)
        num_bytes = self._library.workspace_bytes(ctypes.byref(described))
        return SimpleNamespace(described=described, workspace_bytes=num_bytes)

    def masked_topk(self, shape: SimpleNamespace, **arguments: int) -> None:
        self.num_calls += 1
        assert arguments["stream"] == STREAM
        buffers = _Buffers(*(arguments[name] for name, *_ in _Buffers._fields_))
        launch = Launch()
        self._library.masked_topk(
            ctypes.byref(shape.described),
            ctypes.byref(buffers),
            ctypes.c_void_p(arguments["workspace"]),
            ctypes.c_int64(launch.num_blocks),
            ctypes.c_bool(launch.is_wide),
            ctypes.c_bool(launch.is_reversed),
        )
