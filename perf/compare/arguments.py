"""The options of `python -m perf compare`."""

import argparse
from pathlib import Path

from perf.compare.peer import PEERS

PLAIN_SERVICE = "fastapi"
LIBRARIES = [*dict.fromkeys(peer.library for peer in PEERS), PLAIN_SERVICE]

EXAMPLES = """
  python -m perf compare demo/bundle --checkpoint llmsrec/pretrained/ml-100k-smollm2-135m
  python -m perf compare BUNDLE OTHER_BUNDLE --checkpoint DIR --peer openvino --peer fastapi
  taskset -c 0 python -m perf compare BUNDLE --checkpoint DIR     # on one core
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="ours, in one precision or several")
    add("--checkpoint", type=Path, required=True, metavar="DIR", help="what they were built from")
    add("--peer", action="append", choices=LIBRARIES, help="only this one; may be repeated")
    add(
        "--python",
        action="append",
        default=[],
        type=_read_interpreter,
        metavar="PEER=PATH",
        help="the interpreter of a peer that has an environment of its own",
    )
    add("--users", type=_count, default=1, help="prompts of one forward; %(default)s")
    add("--prompts", type=_count, default=32, help="real ones, to compare; %(default)s")
    add("--rounds", type=_count, default=10, help="timings of each; %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _read_interpreter(text: str) -> tuple[str, str]:
    library, _, path = text.partition("=")
    if library not in LIBRARIES or not Path(path).is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no PEER=PATH of an interpreter, PEER being one of {', '.join(LIBRARIES)}"
        )
    return library, str(Path(path).absolute())
