"""Runs the encoder graph with ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine import native
from engine.backends import Tower
from engine.backends.packing import pack
from engine.config import EncoderConfig
from engine.errors import BundleError
from engine.manifest import GRAPH_FILE
from engine.request import Prompt
from llmsrec.prompt import USER_READOUT_SLOT

_WARM_UP_TOKENS = 64
OPERATORS = next(
    library for folder in native.__path__ if (library := Path(folder) / "_operators.so").is_file()
)
"""The operators of the domain `llmsrec`, of which int16 graphs are made."""


class OnnxRuntimeEncoder:
    """Holds one session and the collaborative item table `[N, 64]` float32."""

    def __init__(
        self, bundle: Path, item_table: NDArray[np.float32], config: EncoderConfig
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.num_threads
        options.log_severity_level = 3
        try:
            options.register_custom_ops_library(str(OPERATORS))
            self._session = onnxruntime.InferenceSession(
                bundle / GRAPH_FILE, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot load {bundle / GRAPH_FILE}: {error}") from error
        self._item_table = item_table

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        feed = {**pack(prompts)._asdict(), "item_table": self._item_table}
        vectors: NDArray[np.float32] = self._session.run([tower], feed)[0]
        return vectors

    def warm_up(self) -> None:
        slot_ids = np.zeros(_WARM_UP_TOKENS, np.int32)
        slot_ids[0], slot_ids[-1] = 1, USER_READOUT_SLOT
        self.encode([Prompt(np.zeros_like(slot_ids), slot_ids)], "user_vector")

    def close(self) -> None:
        del self._session
