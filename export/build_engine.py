"""Builds a servable bundle from a checkpoint.

python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE
python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE --backend tensorrt
python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE --backend onnxruntime-cuda
"""

import argparse
import importlib
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from engine.bundle.manifest import Backend, LibraryName, Precision
from engine.errors import EngineError
from engine.sizes import Size
from export.errors import BuildError
from llmsrec import terminal
from llmsrec.errors import LLMSRecError
from llmsrec.prompt import MAX_PROMPT_TOKENS


@terminal.command
def main() -> int:
    arguments = make_parser().parse_args()
    try:
        command = importlib.import_module("export.command")  # only now: it imports PyTorch
    except ModuleNotFoundError as error:
        remedy = "install what building needs with pip install 'llmsrec-engine[export]'"
        terminal.write_error(f"{error}; {remedy}")
        return 1
    try:
        command.run(arguments)
    except (BuildError, EngineError, LLMSRecError) as error:
        terminal.write_error(str(error))
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        remedy = "free some space or mend the path"
        terminal.write_error(f"{error}; {remedy}; nothing was left half written")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(
        prog="python export/build_engine.py",
        description="Export a checkpoint, compare it with PyTorch, and write a bundle to serve."
        " Both read the same LLM: only its SHA-256 says that it is the training's.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
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


if __name__ == "__main__":
    sys.exit(main())
