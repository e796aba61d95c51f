"""What `export/build_engine.py` runs, once its arguments are read."""

import argparse
import sys
import time
from pathlib import Path

from engine.bundle.manifest import Manifest
from export.build import BuildOptions, build
from export.errors import BuildError
from export.plan import PlanOptions
from export.recipes import precisions_of
from llmsrec import checkpoint
from llmsrec.files import require_apart
from llmsrec.progress import progress_bars


def run(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    require_apart(arguments.output, checkpoint=arguments.checkpoint)
    loaded = checkpoint.load(arguments.checkpoint)
    with progress_bars() as bars:
        manifest = build(loaded, arguments.output, choose_options(arguments), bars)
    sys.stdout.write(_describe(arguments.output, manifest, time.monotonic() - started))


def choose_options(arguments: argparse.Namespace) -> BuildOptions:
    plan = PlanOptions(arguments.library, arguments.targets, arguments.sizes)
    precision = arguments.precision or precisions_of(arguments.backend)[0]
    if arguments.backend != "tensorrt" and (plan.library or plan.targets):
        raise BuildError("--library and --target need --backend tensorrt")
    if arguments.backend == "onnxruntime" and plan.sizes:
        raise BuildError("--size needs --backend tensorrt or onnxruntime-cuda")
    return BuildOptions(arguments.backend, precision, plan)


def _describe(output: Path, manifest: Manifest, seconds: float) -> str:
    parity = manifest.parity
    return (
        f"{output}: {manifest.num_items} items, built in {seconds:.0f} s\n"
        f"parity of the graph on {parity.runtime} with PyTorch fp32,"
        f" on {parity.num_histories} histories:"
        f" cosine min {parity.cosine_min:.7f}, p1 {parity.cosine_p1:.7f},"
        f" mean {parity.cosine_mean:.7f};"
        f" norm ratio {parity.norm_ratio_min:.6f} to {parity.norm_ratio_max:.6f};"
        f" items' cosine min {parity.item_cosine_min:.7f};"
        f" overlap@10 {parity.overlap_at_10:.4f}, top-1 {parity.top_1:.4f}\n"
        f"serve it with: python -m engine serve {output}\n"
    )
