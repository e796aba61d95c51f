"""Calls the kernels of ONNX Runtime's operators, one by one, in guarded memory."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from support.compiled_kernels import AttendTask, MultiplyTask, QuantizeTask, supported

BLOCK = 64
PANEL = 32
INSTRUCTION_SETS = ["portable", "AVX2", "AVX-512 VNNI"]
_TILE_ROWS = 4
_GUARD = 21555
_GUARD_ROWS = 3


class Quantized(NamedTuple):
    values: NDArray[np.int16]  # [T, K]
    scales: NDArray[np.float32]  # [T, K / BLOCK]

    def numbers(self) -> NDArray[np.float64]:
        steps = np.repeat(self.scales, BLOCK, axis=-1)
        return self.values.astype(np.float64) * steps


@dataclass(frozen=True)
class Product:
    """A product with one panel of weights `[K, PANEL]`, whose scales are `[K / BLOCK, PANEL]`."""

    left: Quantized
    weight: NDArray[np.int16]
    weight_scales: NDArray[np.float32]
    addend: NDArray[np.float32] | None = None  # [T, PANEL]


class Head(NamedTuple):
    queries: NDArray[np.float32]  # [T, D]
    keys: NDArray[np.float32]  # [T, D]
    values: NDArray[np.float32]  # [T, D]


class _Window:
    """The columns of some rows, in a memory where nothing else may be written."""

    def __init__(
        self, shape: tuple[int, int], dtype: DTypeLike, stride: int = 0, column: int = 0
    ) -> None:
        num_rows, width = shape
        self._memory = np.full((num_rows + 2 * _GUARD_ROWS, stride or width), _GUARD, dtype)
        self.view = self._memory[_GUARD_ROWS:-_GUARD_ROWS, column : column + width]

    def take(self) -> NDArray[Any]:
        written = self.view.copy()
        self.view[:] = _GUARD
        assert (self._memory == _GUARD).all()
        return written


class Kernels:
    """Those of one instruction set; each call fails where a kernel writes what is not its own."""

    def __init__(self, instruction_set: str) -> None:
        if instruction_set not in supported():
            pytest.skip(f"needs a processor with {instruction_set}")
        self._functions = supported()[instruction_set]

    def quantize(self, x: NDArray[np.float32]) -> Quantized:
        return _quantize(self._functions.quantize, x, None, 0)

    def normalize(
        self, x: NDArray[np.float32], weight: NDArray[np.float32], epsilon: float
    ) -> Quantized:
        return _quantize(self._functions.normalize, x, weight, epsilon)

    def gate(self, gate: NDArray[np.float32], up: NDArray[np.float32]) -> Quantized:
        return _quantize(self._functions.gate, gate, up, 0)

    def multiply(
        self, product: Product, stride: int = PANEL, column: int = 0
    ) -> NDArray[np.float32]:
        """Write to columns of rows of `stride` numbers; gives `[T, PANEL]`."""
        num_rows, depth = product.left.values.shape
        shape = num_rows, PANEL
        addend, written = (_Window(shape, np.float32, stride, column) for _ in range(2))
        if product.addend is not None:
            addend.view[:] = product.addend
        weight = product.weight.reshape(depth // 2, 2, PANEL).swapaxes(1, 2)
        inputs: list[NDArray[Any]] = [*product.left, weight, product.weight_scales]
        arrays = [np.ascontiguousarray(array) for array in inputs]
        task = MultiplyTask(
            *(array.ctypes.data for array in arrays),
            addend=None if product.addend is None else addend.view.ctypes.data,
            product=written.view.ctypes.data,
            num_rows=num_rows,
            num_blocks=depth // BLOCK,
            stride=stride,
        )
        self._functions.multiply(ctypes.addressof(task))
        return written.take()

    def attend(self, head: Head, rows: range) -> NDArray[np.float32]:
        """Give the attended values `[len(rows), D]` of some queries."""
        num_tokens, dim = head.keys.shape
        num_panels = -(-num_tokens // PANEL)
        query_stride, value_stride = dim + 5, dim + 3
        shape = len(rows), dim
        queries, written = (_Window(shape, np.float32, query_stride, 2) for _ in range(2))
        queries.view[:] = head.queries[rows.start : rows.stop]
        values = _Window((num_tokens, dim), np.float32, value_stride, 1)
        values.view[:] = head.values
        keys = np.zeros((num_panels * PANEL, dim), np.float32)
        keys[:num_tokens] = head.keys
        keys = np.ascontiguousarray(keys.reshape(num_panels, PANEL, dim).swapaxes(1, 2))
        weights = _Window((_TILE_ROWS, num_panels * PANEL), np.float32)
        weights.view[:] = np.nan
        task = AttendTask(
            queries=queries.view.ctypes.data,
            keys=keys.ctypes.data,
            values=values.view.ctypes.data,
            attended=written.view.ctypes.data,
            weights=weights.view.ctypes.data,
            first_row=rows.start,
            num_rows=len(rows),
            num_panels=num_panels,
            dim=dim,
            query_stride=query_stride,
            value_stride=value_stride,
            scale=dim**-0.5,
        )
        self._functions.attend(ctypes.addressof(task))
        weights.take()
        return written.take()


def _quantize(
    function: Callable[[int], None],
    source: NDArray[np.float32],
    operand: NDArray[np.float32] | None,
    epsilon: float,
) -> Quantized:
    num_rows, depth = source.shape
    values = _Window((num_rows, depth), np.int16)
    scales = _Window((num_rows, depth // BLOCK), np.float32)
    source = np.ascontiguousarray(source)
    operand = None if operand is None else np.ascontiguousarray(operand)
    task = QuantizeTask(
        source=source.ctypes.data,
        operand=None if operand is None else operand.ctypes.data,
        values=values.view.ctypes.data,
        scales=scales.view.ctypes.data,
        num_rows=num_rows,
        num_blocks=depth // BLOCK,
        epsilon=epsilon,
    )
    function(ctypes.addressof(task))
    return Quantized(values.take(), scales.take())
