"""Times forwards of a checkpoint in PyTorch beside the arithmetic that they do.

They are batched the usual way: prompts of one length as `inputs_embeds` of the decoder in
transformers, every layer for every token. sdpa gets no mask, so that it takes its causal kernel,
compiled or not. The heads are fp32, on a GPU with TF32. A forward counts until its user vectors are
on the host, and they must be those of the first one. The roof is the matrix product in the same
precision, on the same device, in the same run.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.query import Prompt
from llmsrec import checkpoint
from llmsrec.model import LLMSRec
from perf.answers import Vectors, tolerance_of
from perf.encoder import Forwards, add_size_arguments, describe, encode_alone, time_sizes
from perf.errors import MeasureError
from perf.flops import count_model_flop
from perf.gpu.topk import DTYPES
from perf.peaks import MATRIX_SIZES, matrix_peak_gflops

AttentionInterface.register("sdpa_without_mask", sdpa_attention_forward)

ATTENTIONS = {"sdpa": "sdpa_without_mask", "eager": "eager"}
"""As transformers knows them; for its own `sdpa` it makes a mask, wherever there is no KV cache."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, help="what to load")
    add("--device", choices=MATRIX_SIZES, default="cuda", help="what multiplies")
    add("--precision", choices=DTYPES, default="bf16", help="of the LLM")
    add("--attention", choices=ATTENTIONS, default="sdpa", help="as transformers names it")
    add("--compile", action="store_true", help="the decoder, once for all sizes")
    add_size_arguments(parser)


def run(arguments: argparse.Namespace) -> Forwards:
    device, dtype = arguments.device, DTYPES[arguments.precision]
    if device == "cuda":
        require_cuda()
        torch.set_float32_matmul_precision("high")
    model, _ = checkpoint.load(arguments.checkpoint).load_model(dtype)
    model.llm.set_attn_implementation(ATTENTIONS[arguments.attention])
    model.to(device)
    if arguments.compile:
        model.llm.compile(dynamic=True)
    forward = partial(encode, model)
    alone = partial(encode_alone, forward)
    times_ms = time_sizes(forward, alone, tolerance_of(arguments.precision), arguments)
    runs_on = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "attention": arguments.attention,
        "compiled": "yes" if arguments.compile else "no",
        **{name: version(name) for name in ("torch", "transformers")},
    }
    count_size = partial(count_model_flop, model.llm.config)
    peak = matrix_peak_gflops(device, dtype)
    return describe(times_ms, count_size, runs_on, arguments.precision, peak)


def require_cuda() -> None:
    if not torch.cuda.is_available():
        raise MeasureError(
            f"PyTorch {torch.__version__} finds no CUDA device; use a machine with a GPU and a"
            " PyTorch built for CUDA, or --device cpu"
        )


@torch.inference_mode()
def encode(model: LLMSRec, prompts: Sequence[Prompt]) -> Vectors:
    """Give the user vectors `[B, 128]` on the host, which waits for the device.

    Raises:
        MeasureError: a vector is not finite, so that its time would say nothing.
    """
    vectors = model.user_vectors([(prompt.token_ids, prompt.slot_ids) for prompt in prompts]).cpu()
    if not vectors.isfinite().all():
        raise MeasureError("the model gives vectors that are not finite; take another --precision")
    found: Vectors = vectors.numpy()
    return found
