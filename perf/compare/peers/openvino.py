"""OpenVINO's CPU plugin on its own conversion of the PyTorch decoder."""

from collections.abc import Sequence

import numpy as np
import openvino
import torch
from torch import Tensor, nn
from transformers import AutoModel

from perf.compare.messages import Encode, PeerTask
from perf.compare.peer_inputs import PromptArrays, Vectors

HINTS = {"fp32": "f32", "bf16": "bf16"}


class Decoder(nn.Module):
    """The decoder from embeddings to last hidden states."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, embedded: Tensor) -> Tensor:
        hidden: Tensor = self.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return hidden


def load(task: PeerTask) -> Encode:
    inputs = task.inputs
    decoder = AutoModel.from_pretrained(inputs.llm).eval()
    example = torch.ones(2, 16, decoder.config.hidden_size)
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    program = torch.export.export(Decoder(decoder), (example,), dynamic_shapes=(sizes,))
    converted = openvino.convert_model(program)
    del decoder, program
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[task.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": task.num_threads,
    }
    compiled = openvino.Core().compile_model(converted, "CPU", settings)

    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        embedded, at = inputs.embed_padded(prompts)
        hidden = compiled(embedded)[0]  # [B, T, d]
        return inputs.user_vectors(hidden[np.arange(len(at)), at])

    return encode
