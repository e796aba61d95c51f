"""What each precision takes: how its graph is made, what it must agree with, and how closely."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import torch

from engine.bundle.manifest import ENCODER_KINDS, Backend, ParityRuntime, Precision
from export.calibration import Calibration
from export.fp8 import choose_targets, use_fp8
from export.int16 import use_int16
from export.parity import Bars
from export.plan import PlanOptions


@dataclass(frozen=True)
class Recipe:
    dtype: torch.dtype
    """The traced LLM's."""
    bars: Bars
    min_probe_cosine: float
    """The least cosine between the vectors of the machine that built a bundle and another's."""
    parity_runtime: ParityRuntime = "onnxruntime"
    """What runs the graph to be compared on any machine: ONNX Runtime's CPU has no bf16."""
    rewrite: Callable[[Path, Calibration], None] | None = None
    """Puts the precision's own operators into the exported graph of a folder."""
    choose_targets: Callable[[PlanOptions], PlanOptions] | None = None
    """Refuses GPUs that lack the precision, and names those that have it."""
    products_per_instruction: int = 1
    """Products that a processor takes in the time of one in `dtype`."""


_CLOSE = Bars(min_cosine=0.999, min_overlap=0.98)
RECIPES: dict[Precision, Recipe] = {
    "fp32": Recipe(
        dtype=torch.float32,
        bars=Bars(min_cosine=0.99999, min_overlap=1.0),
        min_probe_cosine=0.9999,
    ),
    "int16": Recipe(
        dtype=torch.float32,
        bars=_CLOSE,
        min_probe_cosine=0.9999,
        rewrite=use_int16,
        products_per_instruction=2,
    ),
    "fp16": Recipe(dtype=torch.float16, bars=_CLOSE, min_probe_cosine=0.999),
    "bf16": Recipe(
        dtype=torch.bfloat16, bars=_CLOSE, min_probe_cosine=0.999, parity_runtime="pytorch"
    ),
    "fp8": Recipe(
        dtype=torch.float16,
        bars=_CLOSE,
        # A value that falls on the other side of a rounding changes by a sixteenth: two machines
        # are each as far from PyTorch as the bars allow, and twice that angle from each other.
        min_probe_cosine=0.996,
        rewrite=use_fp8,
        choose_targets=choose_targets,
        products_per_instruction=2,
    ),
}


def precisions_of(backend: Backend) -> tuple[Precision, ...]:
    """Give what a backend runs, its default first."""
    precisions: tuple[Precision, ...] = get_args(
        get_type_hints(ENCODER_KINDS[backend])["precision"]
    )
    return precisions
