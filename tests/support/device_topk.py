"""The GPU's masked top-k on a GPU, its memory handled through cuda-bindings."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_topk import Case

from engine.query import Ranking
from support.emulated_topk import found, inputs

_INPUTS = ("queries", "items", "excluded_rows", "excluded_offsets", "k")


class DeviceTopK:
    """Skips the test that makes it where there is no GPU."""

    def __init__(self) -> None:
        self.native: ModuleType = pytest.importorskip(
            "engine.native._native_cuda", reason="needs the CUDA kernels, which need nvcc to build"
        )
        if self.native.device_count() == 0:
            pytest.skip("needs a CUDA device")
        self._runtime: ModuleType = pytest.importorskip(
            "cuda.bindings.runtime", reason="needs cuda-bindings"
        )

    def call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401
        """Call a function of CUDA's runtime and give its only result."""
        error, *results = getattr(self._runtime, name)(*arguments)
        assert error == self._runtime.cudaError_t.cudaSuccess, (name, error)
        return results[0] if results else None

    def rank(self, search: Case, item_dtype: str) -> list[Ranking]:
        """Rank as `Case.run` does."""
        with ExitStack() as stack:
            call = DeviceCall(self, search, item_dtype, stack)
            call.queue()
            return call.results()

    def capture(self, call: "DeviceCall", stack: ExitStack) -> object:
        """Record a call in a graph, which refuses what allocates or waits."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", call.stream, mode)
        call.queue()
        graph = self.call("cudaStreamEndCapture", call.stream)
        stack.callback(self.call, "cudaGraphDestroy", graph)
        executable = self.call("cudaGraphInstantiate", graph, 0)
        stack.callback(self.call, "cudaGraphExecDestroy", executable)
        return executable

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpy", address, array.ctypes.data, array.nbytes, kind)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpy", array.ctypes.data, address, array.nbytes, kind)


class DeviceCall:
    """One search with its arrays on the device, which lives as long as `stack`."""

    def __init__(self, device: DeviceTopK, search: Case, item_dtype: str, stack: ExitStack) -> None:
        self._device = device
        self._stack = stack
        num_queries, dim = search.users.shape
        self._results = (
            np.full((num_queries, max(search.k, default=0)), 7, np.int32),
            np.full((num_queries, max(search.k, default=0)), np.nan, np.float32),
        )
        self._shape = device.native.TopKShape(
            num_queries=num_queries,
            num_items=len(search.items),
            dim=dim,
            max_k=max(search.k, default=0),
            item_dtype=item_dtype,
        )
        self.stream = device.call("cudaStreamCreate")
        stack.callback(device.call, "cudaStreamDestroy", self.stream)
        self._addresses = [self._allocate(array) for array in inputs(search, item_dtype)]
        self._result_addresses = [self._allocate(array) for array in self._results]
        self._workspace = self._allocate(np.full(self._shape.workspace_bytes, 0xA5, np.uint8))

    def queue(self) -> None:
        self._device.native.masked_topk(
            self._shape,
            **dict(zip(_INPUTS, self._addresses, strict=True)),
            rows=self._result_addresses[0],
            scores=self._result_addresses[1],
            workspace=self._workspace,
            workspace_bytes=self._shape.workspace_bytes,
            stream=int(self.stream),
        )

    def replace(self, arrays: Sequence[NDArray[np.generic]]) -> None:
        """Overwrite the inputs; none may be longer than before."""
        for address, array in zip(self._addresses, arrays, strict=True):
            self._device.upload(address, array)

    def results(self) -> list[Ranking]:
        self._device.call("cudaStreamSynchronize", self.stream)
        for array, address in zip(self._results, self._result_addresses, strict=True):
            self._device.download(array, address)
        return found(*self._results)

    def _allocate(self, array: NDArray[np.generic]) -> int:
        address = int(self._device.call("cudaMalloc", max(1, array.nbytes)))
        self._stack.callback(self._device.call, "cudaFree", address)
        self._device.upload(address, array)
        return address
