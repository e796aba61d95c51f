"""vLLM's CPU build, which takes prompts as embeddings and pools their last position."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from vllm import LLM
from vllm.config import PoolerConfig

from llmsrec.prompt import MAX_PROMPT_TOKENS
from perf.compare.messages import Encode, PeerTask
from perf.compare.peer_inputs import PromptArrays, Vectors

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def load(task: PeerTask) -> Encode:
    os.environ.update(SETTINGS)
    inputs = task.inputs
    engine = LLM(
        model=str(inputs.llm),
        runner="pooling",
        dtype=DTYPES[task.precision],
        enable_prompt_embeds=True,
        enable_prefix_caching=False,
        max_model_len=MAX_PROMPT_TOKENS,
        pooler_config=PoolerConfig(pooling_type="LAST", use_activation=False),
    )

    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        embedded = [{"prompt_embeds": torch.from_numpy(inputs.embed(each))} for each in prompts]
        answers = engine.embed(embedded, use_tqdm=False)
        readouts = np.array([answer.outputs.embedding for answer in answers], np.float32)
        return inputs.user_vectors(readouts)

    return encode
