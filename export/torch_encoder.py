"""Runs the exported graph's module in PyTorch, for precisions that ONNX Runtime's CPU lacks."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.encoders.encoder import Tower
from engine.request import Prompt
from export.encoder_graph import OUTPUTS, EncoderGraph


class TorchEncoder:
    """An encoder, as `engine.encoders.encoder` defines it, around the graph that is exported."""

    def __init__(self, graph: EncoderGraph) -> None:
        self._graph = graph

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        model = self._graph.model
        batch = model.collate([(prompt.token_ids, prompt.slot_ids) for prompt in prompts])
        with torch.inference_mode():
            vectors = dict(zip(OUTPUTS, self._graph(*batch, model.item_table), strict=True))
        encoded: NDArray[np.float32] = vectors[tower].numpy()
        return encoded

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass
