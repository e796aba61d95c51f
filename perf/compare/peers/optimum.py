"""Optimum's plain export of the decoder, run by its `ORTModelForCustomTasks`."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnxruntime
import torch
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.onnx.model_configs import LlamaOnnxConfig
from optimum.onnxruntime import ORTModelForCustomTasks
from optimum.utils import DummyInputGenerator, NormalizedTextConfig
from transformers import AutoModel

from perf.compare.messages import Encode, PeerTask
from perf.compare.peer_inputs import PromptArrays, Vectors

AXES = {0: "batch_size", 1: "sequence_length"}


class EmbeddingInputs(DummyInputGenerator):  # type: ignore[misc]
    """What the tracer sees in place of token ids."""

    SUPPORTED_INPUT_NAMES = ("inputs_embeds", "attention_mask", "position_ids")

    def __init__(self, _task: str, config: NormalizedTextConfig, **_: object) -> None:
        self._width = config.hidden_size

    def generate(self, input_name: str, **_: object) -> torch.Tensor:
        inputs = {
            "inputs_embeds": torch.ones(2, 16, self._width),
            "attention_mask": torch.ones(2, 16, dtype=torch.int64),
            "position_ids": torch.arange(16).expand(2, 16),
        }
        return inputs[input_name]


class EmbeddingsOnnxConfig(LlamaOnnxConfig):  # type: ignore[misc]
    DUMMY_INPUT_GENERATOR_CLASSES = (EmbeddingInputs,)
    inputs: ClassVar[dict[str, dict[int, str]]] = dict.fromkeys(
        EmbeddingInputs.SUPPORTED_INPUT_NAMES, AXES
    )


def load(task: PeerTask) -> Encode:
    inputs = task.inputs
    folder = inputs.folder / "optimum"
    decoder = AutoModel.from_pretrained(inputs.llm)
    onnx_export_from_model(
        decoder,
        folder,
        task="feature-extraction",
        monolith=True,
        do_validation=False,
        custom_onnx_configs={"model": EmbeddingsOnnxConfig(decoder.config)},
    )
    del decoder
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.num_threads
    model = ORTModelForCustomTasks.from_pretrained(folder, session_options=options)

    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        embedded, at = inputs.embed_padded(prompts)
        positions = np.arange(embedded.shape[1])
        outputs = model(
            inputs_embeds=embedded,
            attention_mask=(positions <= at[:, None]).astype(np.int64),
            position_ids=np.broadcast_to(positions, embedded.shape[:2]).copy(),
        )
        return inputs.user_vectors(outputs.last_hidden_state[np.arange(len(at)), at])

    return encode
