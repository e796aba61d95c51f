"""Runs the exported graph's module in PyTorch, for precisions that ONNX Runtime's CPU lacks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.encoders.encoder import Tower
from engine.encoders.graph_inputs import pack
from engine.query import Prompt
from engine.sizes import Size
from export.encoder_graph import OUTPUTS, EncoderGraph


class TorchEncoder:
    """An encoder, as `engine.encoders.encoder` defines it, around the graph that is exported."""

    sizes: Sequence[Size] = ()

    def __init__(self, graph: EncoderGraph) -> None:
        self._graph = graph

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        model = self._graph.model
        batch = [torch.from_numpy(array) for array in pack(prompts, size)]
        with torch.inference_mode():
            vectors = dict(zip(OUTPUTS, self._graph(*batch, model.item_table), strict=True))
        encoded: NDArray[np.float32] = vectors[tower].numpy()
        return encoded[: len(prompts)]

    def warm_up(self) -> Mapping[Size, float]:
        return {}

    def close(self) -> None:
        pass
