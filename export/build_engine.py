"""Builds a servable bundle from a checkpoint.

python export/build_engine.py --checkpoint CHECKPOINT --output BUNDLE
"""

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

from engine.errors import EngineError
from engine.manifest import Backend, Manifest, Precision
from export.build import build
from export.errors import BuildError
from llmsrec import checkpoint
from llmsrec.errors import LLMSRecError
from llmsrec.progress import progress_bars


def main() -> int:
    arguments = _make_parser().parse_args()
    started = time.monotonic()
    try:
        loaded = checkpoint.load(arguments.checkpoint)
        with progress_bars() as bars:
            manifest = build(loaded, arguments.output, arguments.precision, bars)
    except (BuildError, EngineError, LLMSRecError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        remedy = "free some space or mend the path"
        sys.stderr.write(f"error: {error}; {remedy}; nothing was left half written\n")
        return 1
    sys.stdout.write(_describe(arguments.output, manifest, time.monotonic() - started))
    return 0


def _make_parser() -> argparse.ArgumentParser:
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
        "--precision", choices=get_args(Precision), default="fp32", help="of the encoder's weights"
    )
    return parser


def _describe(output: Path, manifest: Manifest, seconds: float) -> str:
    parity = manifest.parity
    return (
        f"{output}: {manifest.num_items} items, built in {seconds:.0f} s\n"
        f"parity with PyTorch fp32 on {parity.num_histories} histories:"
        f" cosine min {parity.cosine_min:.7f}, p1 {parity.cosine_p1:.7f},"
        f" mean {parity.cosine_mean:.7f};"
        f" norm ratio {parity.norm_ratio_min:.6f} to {parity.norm_ratio_max:.6f};"
        f" items' cosine min {parity.item_cosine_min:.7f};"
        f" overlap@10 {parity.overlap_at_10:.4f}, top-1 {parity.top_1:.4f}\n"
        f"serve it with: python -m engine serve {output}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
