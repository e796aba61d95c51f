"""The model as it was trained, in eager PyTorch."""

from collections.abc import Sequence
from pathlib import Path

import torch

from llmsrec import checkpoint
from llmsrec.model import LLMSRec
from perf.compare.messages import Encode, PeerTask
from perf.compare.peer_inputs import PromptArrays, Vectors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(task: PeerTask) -> Encode:
    return encode_with(load_model(task))


def load_model(task: PeerTask) -> LLMSRec:
    torch.set_num_threads(task.num_threads)
    model, _ = checkpoint.load(Path(task.checkpoint)).load_model(DTYPES[task.precision])
    return model


def encode_with(model: LLMSRec) -> Encode:
    @torch.inference_mode()
    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        vectors: Vectors = model.user_vectors(prompts).numpy()
        return vectors

    return encode
