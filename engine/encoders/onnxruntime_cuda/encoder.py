"""Serves a bundle on a GPU with ONNX Runtime, after looking for what that takes."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import GRAPH_FILE, WEIGHTS_FILE
from engine.encoders.encoder import Tower
from engine.encoders.onnxruntime_cuda.bound import BoundEncoder
from engine.encoders.onnxruntime_cuda.session import open_session, require_provider
from engine.errors import BackendUnavailable, EncodingFailed, GpuFailed
from engine.gpu import Gpu
from engine.query import Prompt
from engine.sizes import Size

REMEDY = "stop what else uses it, or build the bundle with a smaller --size"
_LOG = logging.getLogger(__name__)


class CudaEncoder(BoundEncoder):
    """Holds the graph on the first GPU; a CUDA graph for each size, once warmed up."""

    def __init__(
        self, bundle: Path, sizes: Sequence[Size], item_table: NDArray[np.float32]
    ) -> None:
        require_provider()
        self._bundle = bundle
        self._free_bytes = free_bytes()
        needed_bytes = (bundle / WEIGHTS_FILE).stat().st_size + item_table.nbytes
        if needed_bytes > self._free_bytes:
            raise BackendUnavailable(
                f"the GPU has {self._free_bytes / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} MB"
                f" are needed for the weights alone; {REMEDY}"
            )
        session = open_session(bundle / GRAPH_FILE)
        try:
            super().__init__(session, sizes, item_table, "cuda")
        except Exception as error:
            raise _refusal(error) from error

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        """Encode one micro-batch.

        Raises:
            EncodingFailed: this run failed, and the next may not.
            GpuFailed: the GPU answers nothing any more.
        """
        try:
            return super().encode(prompts, size, tower)
        except EncodingFailed as error:
            require_gpu_answers(error)
            raise

    def warm_up(self) -> Mapping[Size, float]:
        """Capture the CUDA graphs.

        Raises:
            BackendUnavailable: the GPU has too little memory, or cannot run the graph.
        """
        try:
            measured_ms = super().warm_up()
        except EncodingFailed as error:
            raise _refusal(error) from error
        used_bytes = self._free_bytes - free_bytes()
        _LOG.info("%s: %.0f MB of GPU memory", self._bundle, used_bytes / 1e6)
        return measured_ms


def _refusal(error: Exception) -> BackendUnavailable:
    words = str(error).strip()
    return BackendUnavailable(f"{words}; the GPU has {free_bytes() / 1e6:.0f} MB free; {REMEDY}")


def require_gpu_answers(error: Exception) -> None:
    """Ask the GPU to finish its work: after an error of its own, every call of CUDA fails.

    Raises:
        GpuFailed: it does not, with the words of `error`.
    """
    try:
        with closing(Gpu()) as gpu:
            gpu.synchronize()
    except (BackendUnavailable, GpuFailed) as lost:
        raise GpuFailed(f"{str(error).strip()}; {lost}") from error


def free_bytes() -> int:
    """Give the free memory of the first GPU.

    Raises:
        BackendUnavailable: there is none, or its driver is too old.
    """
    with closing(Gpu()) as gpu:
        return gpu.free_bytes
