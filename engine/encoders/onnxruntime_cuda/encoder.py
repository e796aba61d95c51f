"""Serves a bundle on a GPU with ONNX Runtime, after looking for what that takes."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import GRAPH_FILE, WEIGHTS_FILE, Bucket
from engine.encoders.onnxruntime_cuda.bound import BoundEncoder
from engine.encoders.onnxruntime_cuda.session import open_session, require_provider
from engine.errors import EncodingFailed, PlanError
from engine.gpu import Gpu

REMEDY = "stop what else uses it, or build the bundle with a smaller --profile"
_LOG = logging.getLogger(__name__)


class CudaEncoder(BoundEncoder):
    """Holds the graph on the first GPU; a CUDA graph for each bucket, once warmed up."""

    def __init__(
        self, bundle: Path, buckets: Sequence[Bucket], item_table: NDArray[np.float32]
    ) -> None:
        require_provider()
        self._bundle = bundle
        self._free_bytes = free_bytes()
        needed_bytes = (bundle / WEIGHTS_FILE).stat().st_size + item_table.nbytes
        if needed_bytes > self._free_bytes:
            raise PlanError(
                f"the GPU has {self._free_bytes / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} MB"
                f" are needed for the weights alone; {REMEDY}"
            )
        session = open_session(bundle / GRAPH_FILE)
        try:
            super().__init__(session, buckets, item_table, "cuda")
        except Exception as error:
            raise _refusal(error) from error

    def warm_up(self) -> None:
        """Capture the CUDA graphs.

        Raises:
            PlanError: the GPU has too little memory, or cannot run the graph.
        """
        try:
            super().warm_up()
        except EncodingFailed as error:
            raise _refusal(error) from error
        used_bytes = self._free_bytes - free_bytes()
        _LOG.info("%s: %.0f MB of GPU memory", self._bundle, used_bytes / 1e6)


def _refusal(error: Exception) -> PlanError:
    words = str(error).strip()
    return PlanError(f"{words}; the GPU has {free_bytes() / 1e6:.0f} MB free; {REMEDY}")


def free_bytes() -> int:
    """Give the free memory of the first GPU.

    Raises:
        PlanError: there is none, or its driver is too old.
    """
    with closing(Gpu()) as gpu:
        return gpu.free_bytes
