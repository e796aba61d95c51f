# ruff: noqa: N802, N815
"""CUDA's runtime on the host: one stream, whose work is done only when somebody waits for it."""

import ctypes
import enum
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

STREAM = 1
Work = Callable[[], None]
ALIGNMENT = 256


class Status(enum.Enum):
    """As `cudaError_t`."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class Direction(enum.Enum):
    """As `cudaMemcpyKind`."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Event:
    """Has the stream's clock of when it happened, and None before."""

    time_ms: float | None = None


class FakeCuda:
    """Stands for `cuda.bindings.runtime`; memory that was just allocated holds rubbish."""

    cudaError_t = Status
    cudaMemcpyKind = Direction
    cudaHostAllocDefault = 0
    cudaEventBlockingSync = 1
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, total_bytes: int = 1 << 30) -> None:
        self.total_bytes = total_bytes
        self.device: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.num_live = 0
        self.num_contexts = 0
        """How many of TensorRT's contexts live, which use device memory."""
        self.contexts: list[Any] = []
        """A weak reference to each context that was made."""
        self.is_lost = False
        self.num_launches = 0
        self.before_waiting: Work = lambda: None
        self.clock_ms = 0.0
        self._queued: list[Work] = []
        self._captured: list[Work] | None = None
        self._lock = threading.RLock()

    @property
    def is_capturing(self) -> bool:
        return self._captured is not None

    def queue(self, work: Work, cost_ms: float = 0.0) -> None:
        """Do something when the stream comes to it."""

        def run() -> None:
            work()
            self.clock_ms += cost_ms

        with self._lock:
            (self._queued if self._captured is None else self._captured).append(run)

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:  # noqa: ANN401
        """Look at device memory, which must have been allocated."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self._find(self.device, address, num_bytes)
        viewed: NDArray[Any] = memory[:num_bytes].view(dtype).reshape(shape)
        return viewed

    def cudaGetDeviceCount(self) -> tuple[Status, int]:
        return Status.cudaSuccess, 1

    def cudaDeviceGetAttribute(self, kind: str, device: int) -> tuple[Status, int]:
        assert device == 0
        return Status.cudaSuccess, {"major": 9, "minor": 0}[kind]

    def cudaMemGetInfo(self) -> tuple[Status, int, int]:
        used_bytes = sum(memory.nbytes for memory in self.device.values())
        return Status.cudaSuccess, self.total_bytes - used_bytes, self.total_bytes

    def cudaMalloc(self, num_bytes: int) -> tuple[Status, int]:
        if num_bytes > self.cudaMemGetInfo()[1]:
            return Status.cudaErrorMemoryAllocation, 0
        return self._allocate(self.device, num_bytes)

    def cudaFree(self, address: int) -> tuple[Status]:
        assert self.num_contexts == 0
        assert not self._queued
        del self.device[address]
        return self._release()

    def cudaHostAlloc(self, num_bytes: int, _flags: int) -> tuple[Status, int]:
        return self._allocate(self.pinned, num_bytes)

    def cudaFreeHost(self, address: int) -> tuple[Status]:
        del self.pinned[address]
        return self._release()

    def cudaMemcpyAsync(
        self, target: int, source: int, num_bytes: int, direction: Direction, stream: int
    ) -> tuple[Status]:
        assert stream == STREAM
        if direction is Direction.cudaMemcpyDeviceToHost:
            to, at = self._find(self.pinned, target, num_bytes), source
            self.queue(lambda: np.copyto(to[:num_bytes], self.view(at, (num_bytes,), np.uint8)))
        elif pinned := self._holds(self.pinned, source, num_bytes):
            held = pinned[0]
            self.queue(
                lambda: np.copyto(self.view(target, (num_bytes,), np.uint8), held[:num_bytes])
            )
        else:
            # What is not pinned is read before the call returns.
            read = np.frombuffer(ctypes.string_at(source, num_bytes), np.uint8)
            self.queue(lambda: np.copyto(self.view(target, (num_bytes,), np.uint8), read))
        return (Status.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[Status, int]:
        self.num_live += 1
        return Status.cudaSuccess, STREAM

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:
        assert stream == STREAM
        return self._release()

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:
        assert stream == STREAM
        if self.is_capturing:
            return (Status.cudaErrorStreamCaptureUnsupported,)
        if self.is_lost:
            return (Status.cudaErrorIllegalAddress,)
        self._run_until(lambda: False)
        return (Status.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Status, Event]:
        assert flags == self.cudaEventBlockingSync
        self.num_live += 1
        return Status.cudaSuccess, Event()

    def cudaEventDestroy(self, _event: Event) -> tuple[Status]:
        return self._release()

    def cudaEventRecord(self, event: Event, stream: int) -> tuple[Status]:
        assert stream == STREAM
        event.time_ms = None
        self.queue(lambda: setattr(event, "time_ms", self.clock_ms))
        return (Status.cudaSuccess,)

    def cudaEventSynchronize(self, event: Event) -> tuple[Status]:
        if self.is_lost:
            return (Status.cudaErrorIllegalAddress,)
        self.before_waiting()
        self._run_until(lambda: event.time_ms is not None)
        return (Status.cudaSuccess,)

    def cudaEventElapsedTime(self, start: Event, end: Event) -> tuple[Status, float]:
        assert start.time_ms is not None
        assert end.time_ms is not None
        return Status.cudaSuccess, end.time_ms - start.time_ms

    def cudaStreamBeginCapture(self, stream: int, _mode: int) -> tuple[Status]:
        assert stream == STREAM
        self._captured = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, _stream: int) -> tuple[Status, list[Work]]:
        captured, self._captured = self._captured, None
        if not captured:
            return Status.cudaErrorStreamCaptureUnsupported, []
        self.num_live += 1
        return Status.cudaSuccess, captured

    def cudaGraphInstantiate(self, graph: list[Work], _flags: int) -> tuple[Status, list[Work]]:
        self.num_live += 1
        return Status.cudaSuccess, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Status]:
        graph.clear()
        return self._release()

    def cudaGraphExecDestroy(self, graph: list[Work]) -> tuple[Status]:
        graph.clear()
        return self._release()

    def cudaGraphLaunch(self, graph: list[Work], stream: int) -> tuple[Status]:
        assert stream == STREAM
        self.num_launches += 1
        for work in graph:
            self.queue(work)
        return (Status.cudaSuccess,)

    def _allocate(
        self, memories: dict[int, NDArray[np.uint8]], num_bytes: int
    ) -> tuple[Status, int]:
        assert not self.is_capturing
        block = np.full(num_bytes + ALIGNMENT, 0xA5, np.uint8)
        start = -block.ctypes.data % ALIGNMENT
        memory = block[start : start + num_bytes]
        memories[memory.ctypes.data] = memory
        self.num_live += 1
        return Status.cudaSuccess, memory.ctypes.data

    def _release(self) -> tuple[Status]:
        self.num_live -= 1
        return (Status.cudaSuccess,)

    def _find(
        self, memories: dict[int, NDArray[np.uint8]], address: int, num_bytes: int
    ) -> NDArray[np.uint8]:
        (held,) = self._holds(memories, address, num_bytes)
        return held

    def _holds(
        self, memories: dict[int, NDArray[np.uint8]], address: int, num_bytes: int
    ) -> list[NDArray[np.uint8]]:
        return [
            memory[address - start :]
            for start, memory in memories.items()
            if start <= address < start + max(1, memory.nbytes)
            and address + num_bytes <= start + memory.nbytes
        ]

    def _run_until(self, is_over: Callable[[], bool]) -> None:
        with self._lock:
            while self._queued and not is_over():
                self._queued.pop(0)()
