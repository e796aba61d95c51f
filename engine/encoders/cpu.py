"""Runs the encoder graph with ONNX Runtime on the CPU."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine import native
from engine.bundle.manifest import GRAPH_FILE
from engine.config import EncoderConfig
from engine.encoders.encoder import Tower
from engine.encoders.graph_inputs import pack
from engine.encoders.timing import measure_ready
from engine.errors import BackendUnavailable, BundleError
from engine.query import Prompt, fill
from engine.sizes import Size

_WARM_UP = Size(num_prompts=1, num_tokens=64)


class CpuEncoder:
    """Holds one session and the collaborative item table `[N, 64]` float32."""

    sizes: Sequence[Size] = ()

    def __init__(
        self, bundle: Path, item_table: NDArray[np.float32], config: EncoderConfig
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.num_threads
        options.log_severity_level = 3
        operators = find_operators()
        try:
            options.register_custom_ops_library(str(operators))
            self._session = onnxruntime.InferenceSession(
                bundle / GRAPH_FILE, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot load {bundle / GRAPH_FILE}: {error}") from error
        self._item_table = item_table

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        feed = {**pack(prompts, size)._asdict(), "item_table": self._item_table}
        vectors: NDArray[np.float32] = self._session.run([tower], feed)[0]
        return vectors[: len(prompts)]

    def warm_up(self) -> Mapping[Size, float]:
        run = partial(self.encode, fill(_WARM_UP), _WARM_UP, "user_vector")
        run()
        return {_WARM_UP: measure_ready(_WARM_UP, run)}

    def close(self) -> None:
        del self._session


def find_operators() -> Path:
    """Find the library of the operators of the domain `llmsrec`, of which int16 graphs are made.

    Raises:
        BackendUnavailable: it is not built.
    """
    for folder in native.__path__:
        library = Path(folder) / "_operators.so"
        if library.is_file():
            return library
    raise BackendUnavailable(
        "the engine's operators (_operators.so) are not built; install the package again:"
        " pip install ."
    )
