"""Builds a servable bundle from a checkpoint.

python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE
python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE --backend tensorrt
python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE --backend onnxruntime-cuda
"""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import get_args

from engine.bundle.manifest import Backend, LibraryName, Manifest, Precision
from engine.errors import EngineError
from engine.sizes import Size
from export.build import BuildOptions, build
from export.errors import BuildError
from export.plan import PlanOptions
from export.recipes import precisions_of
from llmsrec import checkpoint
from llmsrec.errors import LLMSRecError
from llmsrec.progress import progress_bars
from llmsrec.prompt import MAX_PROMPT_TOKENS


def main() -> int:
    arguments = make_parser().parse_args()
    started = time.monotonic()
    try:
        loaded = checkpoint.load(arguments.checkpoint)
        with progress_bars() as bars:
            manifest = build(loaded, arguments.output, choose_options(arguments), bars)
    except (BuildError, EngineError, LLMSRecError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        remedy = "free some space or mend the path"
        sys.stderr.write(f"error: {error}; {remedy}; nothing was left half written\n")
        return 1
    sys.stdout.write(_describe(arguments.output, manifest, time.monotonic() - started))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python export/build_engine.py",
        description="Export a checkpoint, compare it with PyTorch, and write a bundle to serve.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="what `train` or `import-reference` wrote"
    )
    parser.add_argument("--output", type=Path, required=True, help="the bundle's directory")
    parser.add_argument(
        "--backend", choices=get_args(Backend), default="onnxruntime", help="what runs the encoder"
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of the encoder's weights; default: fp32 for onnxruntime, fp16 for a GPU; fp8 needs"
        " --backend tensorrt and GPUs of compute capability 8.9 or later",
    )
    tensorrt = parser.add_argument_group("of the backend tensorrt, which compiles a plan")
    tensorrt.add_argument(
        "--library", choices=get_args(LibraryName), help="default: the one that is installed"
    )
    tensorrt.add_argument(
        "--target",
        dest="targets",
        action="append",
        default=[],
        metavar="CAPABILITY",
        help="compute capability to compile for, such as 8.9; repeatable, TensorRT-RTX only;"
        " default: what the library compiles for of itself, or 8.9 and 12.0 for fp8",
    )
    sizes = parser.add_argument_group("of the backends for a GPU, which make sizes ready")
    sizes.add_argument(
        "--size",
        dest="sizes",
        action="append",
        default=[],
        type=parse_size,
        metavar="USERSxTOKENS",
        help="largest micro-batch to be fast at, such as 32x384; repeatable; default: measured"
        " on the checkpoint's histories",
    )
    return parser


def parse_size(text: str) -> Size:
    """Read `USERSxTOKENS`."""
    match = re.fullmatch(r"(\d+)x(\d+)", text, re.ASCII)
    sizes = [int(size) for size in match.groups()] if match else [0, 0]
    if min(sizes) < 1 or sizes[1] > MAX_PROMPT_TOKENS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not USERSxTOKENS with 1 to {MAX_PROMPT_TOKENS} tokens, such as 32x384"
        )
    return Size(*sizes)


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


if __name__ == "__main__":
    sys.exit(main())
