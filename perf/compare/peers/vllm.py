"""vLLM's CPU build, which takes prompts as embeddings and pools their last position."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from vllm import LLM
from vllm.config import PoolerConfig

from llmsrec.prompt import MAX_PROMPT_TOKENS
from perf.compare.kit import PromptArrays, Vectors
from perf.compare.task import Encode, Task

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def load(task: Task) -> Encode:
    os.environ.update(SETTINGS)
    kit = task.kit
    engine = LLM(
        model=str(kit.llm),
        runner="pooling",
        dtype=DTYPES[task.precision],
        enable_prompt_embeds=True,
        enable_prefix_caching=False,
        max_model_len=MAX_PROMPT_TOKENS,
        pooler_config=PoolerConfig(pooling_type="LAST", use_activation=False),
    )

    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        inputs = [{"prompt_embeds": torch.from_numpy(kit.embed(prompt))} for prompt in prompts]
        answers = engine.embed(inputs, use_tqdm=False)
        readouts = np.array([answer.outputs.embedding for answer in answers], np.float32)
        return kit.user_vectors(readouts)

    return encode
