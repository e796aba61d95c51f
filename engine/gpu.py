"""The CUDA calls that the GPU backends take: one GPU, one stream, buffers allocated once."""

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.errors import BackendUnavailable, GpuFailed
from engine.untyped import Untyped

SMALLER = "build with a smaller --size"


class Gpu:
    """The first GPU that the process sees; its memory is given back by `close`."""

    def __init__(self) -> None:
        try:
            self._cuda = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise BackendUnavailable(
                f"cuda-bindings does not load ({error}); pip install 'cuda-bindings>=13,<14'"
            ) from error
        self._resources = ExitStack()
        status, count = self._cuda.cudaGetDeviceCount()
        if status != self._cuda.cudaError_t.cudaSuccess or count == 0:
            _, driver = self._cuda.cudaDriverGetVersion()
            _, needed = self._cuda.getLocalRuntimeVersion()
            found = (
                f"the driver supports CUDA {_version(driver)}" if driver else "there is no driver"
            )
            raise BackendUnavailable(
                f"no GPU can be used ({status.name}): {found}, CUDA {_version(needed)} is needed;"
                " serve on a machine with a GPU and a current driver, or build the bundle with"
                " --backend onnxruntime"
            )
        self.stream: int = int(self._call("cudaStreamCreate"))
        self._resources.callback(self._call, "cudaStreamDestroy", self.stream)

    @property
    def compute_capability(self) -> str:
        kinds = self._cuda.cudaDeviceAttr
        parts = (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
        return ".".join(str(self._call("cudaDeviceGetAttribute", part, 0)) for part in parts)

    @property
    def free_bytes(self) -> int:
        return int(self._call("cudaMemGetInfo")[0])

    def allocate(self, num_bytes: int, remedy: str = SMALLER) -> int:
        """Give the address of new device memory.

        Raises:
            BackendUnavailable: there is not as much, with the remedy.
        """
        status, address = self._cuda.cudaMalloc(num_bytes)
        if status == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise BackendUnavailable(
                f"the GPU has {self.free_bytes / 1e6:.0f} MB free, {num_bytes / 1e6:.0f} MB more"
                f" are needed; stop what else uses it, or {remedy}"
            )
        self._require(status, "cudaMalloc")
        address = int(address)
        self._resources.callback(self._call, "cudaFree", address)
        return address

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Give an array in host memory that the GPU copies from and to by itself."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        flags = self._cuda.cudaHostAllocDefault
        address = int(self._call("cudaHostAlloc", num_bytes, flags))
        self._resources.callback(self._call, "cudaFreeHost", address)
        memory: Untyped = (ctypes.c_byte * num_bytes).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array to the device, in the stream's order."""
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def download(self, array: NDArray[Any], address: int) -> None:
        """Fill a contiguous array from the device, in the stream's order."""
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")

    def synchronize(self) -> None:
        """Wait for all that was asked of the stream."""
        self._call("cudaStreamSynchronize", self.stream)

    def make_event(self) -> Untyped:
        """Give an event; who waits for it sleeps."""
        event = self._call("cudaEventCreateWithFlags", self._cuda.cudaEventBlockingSync)
        self._resources.callback(self._call, "cudaEventDestroy", event)
        return event

    def record(self, event: Untyped) -> None:
        """Let the event happen once the stream has come this far."""
        self._call("cudaEventRecord", event, self.stream)

    def wait(self, event: Untyped) -> None:
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: Untyped, end: Untyped) -> float:
        """Give the time between two events that have happened, by the GPU's clock."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def capture(self, queue: Callable[[], None]) -> Untyped:
        """Record what `queue` asks of the stream, without running it, as a CUDA graph."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            queue()
        except BaseException:
            # Fails as well, and must not hide why.
            self._cuda.cudaStreamEndCapture(self.stream)
            raise
        recorded = self._call("cudaStreamEndCapture", self.stream)
        try:
            graph = self._call("cudaGraphInstantiate", recorded, 0)
        finally:
            self._call("cudaGraphDestroy", recorded)
        self._resources.callback(self._call, "cudaGraphExecDestroy", graph)
        return graph

    def launch(self, graph: Untyped) -> None:
        """Replay a graph in the stream's order."""
        self._call("cudaGraphLaunch", graph, self.stream)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Leave the block only once the stream has done what was asked of it, even if it fails."""
        try:
            yield
        except BaseException:
            with suppress(GpuFailed):
                self.synchronize()
            raise
        self.synchronize()

    def close(self) -> None:
        self._resources.close()

    def _copy(self, target: int, source: int, num_bytes: int, kind: str) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", target, source, num_bytes, direction, self.stream)

    def _call(self, name: str, *arguments: object) -> Untyped:
        status, *results = getattr(self._cuda, name)(*arguments)
        self._require(status, name)
        return results[0] if len(results) == 1 else results

    def _require(self, status: Untyped, name: str) -> None:
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise GpuFailed(f"{name} failed with {status.name}; see the driver's log (dmesg)")


def _version(number: int) -> str:
    """Write CUDA's number of a version, 13010, as 13.1."""
    return f"{number // 1000}.{number % 1000 // 10}"
