"""Times forwards of a checkpoint in PyTorch beside the arithmetic that they do.

They are batched the usual way: prompts of one length as `inputs_embeds` of the decoder in
transformers, every layer for every token. sdpa gets no mask, so that it takes its causal kernel,
compiled or not. The heads are fp32, on a GPU with TF32. A forward counts until its user vectors are
on the host. The roof is the matrix product in the same precision, on the same device, in the same
run.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.request import Prompt
from llmsrec import checkpoint
from llmsrec.model import LLMSRec
from perf.encoder import Figures, add_size_arguments, figures_of, time_sizes
from perf.flops import count_model_flop
from perf.peaks import MATRIX_SIZES, matrix_peak_gflops

AttentionInterface.register("sdpa_without_mask", sdpa_attention_forward)

ATTENTIONS = {"sdpa": "sdpa_without_mask", "eager": "eager"}
"""As transformers knows them; for its own `sdpa` it makes a mask, wherever there is no KV cache."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    precision: str
    """Of the LLM."""
    attention: str
    is_compiled: bool
    versions: dict[str, str]
    peak_gflop_per_s: float
    figures: list[Figures]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("--device", choices=MATRIX_SIZES, default="cuda", help="what multiplies")
    add("--precision", choices=DTYPES, default="bf16", help="of the LLM")
    add("--attention", choices=ATTENTIONS, default="sdpa", help="as transformers names it")
    add("--compile", action="store_true", help="the decoder, once for all sizes")
    add_size_arguments(parser)


def run(arguments: argparse.Namespace) -> Result:
    device, dtype = arguments.device, DTYPES[arguments.precision]
    if device == "cuda":
        require_cuda()
        torch.set_float32_matmul_precision("high")
    model, _ = checkpoint.load(arguments.checkpoint).load_model(dtype)
    model.llm.set_attn_implementation(ATTENTIONS[arguments.attention])
    model.to(device)
    if arguments.compile:
        model.llm.compile(dynamic=True)
    times = time_sizes(lambda prompts: encode(model, prompts), arguments)
    peak = matrix_peak_gflops(device, dtype)
    return Result(
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        precision=arguments.precision,
        attention=arguments.attention,
        is_compiled=arguments.compile,
        versions={name: version(name) for name in ("torch", "transformers")},
        peak_gflop_per_s=peak,
        figures=[
            figures_of(size, seconds, count_model_flop(model.llm.config, *size), peak)
            for size, seconds in times.items()
        ],
    )


def require_cuda() -> None:
    if not torch.cuda.is_available():
        raise SystemExit(
            f"PyTorch {torch.__version__} finds no CUDA device; use a machine with a GPU and a"
            " PyTorch built for CUDA, or --device cpu"
        )


@torch.inference_mode()
def encode(model: LLMSRec, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Give the user vectors `[B, 128]` on the host, which waits for the device.

    Raises:
        SystemExit: a vector is not finite, so that its time would say nothing.
    """
    vectors = model.user_vectors([(prompt.token_ids, prompt.slot_ids) for prompt in prompts]).cpu()
    if not vectors.isfinite().all():
        raise SystemExit("the model gives vectors that are not finite; take another --precision")
    return vectors
