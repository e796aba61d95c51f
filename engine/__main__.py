"""The command line: serve a bundle, check one, ask a running server."""

import argparse
import contextlib
import importlib
import math
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from engine.errors import EngineError
from engine.request import Interaction
from engine.signals import StopSignals

_TIMESTAMP = re.compile(r"\d+", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

SERVE_EXAMPLE = "example: python -m engine serve bundle --config server.toml --listen 0.0.0.0:50051"
CHECK_EXAMPLE = "example: python -m engine check bundle"
REBUILD_EXAMPLE = """\
A plan serves the library version and the GPUs that it was compiled for. This compiles the graph of
a TensorRT bundle anew, with the library that is installed.

example: python -m engine rebuild bundle --target 8.9"""
RECOMMEND_EXAMPLE = """\
An item is ID, ID@TIMESTAMP_MS or ID@YYYY-MM-DD (midnight UTC). What follows the last @ counts as
the time only if it is one: `me@home` is an id. An id that itself ends so needs a time of its own.

example: python -m engine recommend 127.0.0.1:50051 --item 50@1997-11-22 --item 181 -k 5"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "serve" and options.bundle is None and not options.check_config:
        parser.error("serve needs a BUNDLE, unless with --check-config")
    try:
        run(options)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    """Import what a command needs and run it; a server heeds signals from before that."""
    if options.command == "serve":
        with StopSignals() as signals:
            importlib.import_module("engine.commands.serve").run(options, signals)
    else:
        importlib.import_module(f"engine.commands.{options.command}").run(options)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine", description="Serves LLM-SRec recommenders over gRPC."
    )
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    serving = add("serve", "answer Recommend calls from a bundle, until SIGTERM", SERVE_EXAMPLE)
    serving.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE")
    serving.add_argument("--config", type=Path, metavar="FILE.toml", help="default: all defaults")
    serving.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="HOST:PORT, [IPV6]:PORT or unix:PATH; overrides server.listen",
    )
    serving.add_argument(
        "--check-config",
        action="store_true",
        help="read configuration and address, print every setting and end; loads nothing",
    )

    checking = add("check", "verify a bundle", CHECK_EXAMPLE)
    checking.add_argument("bundle", type=Path, metavar="BUNDLE")

    rebuilding = add("rebuild", "compile a bundle's TensorRT plan anew", REBUILD_EXAMPLE)
    rebuilding.add_argument("bundle", type=Path, metavar="BUNDLE")
    rebuilding.add_argument(
        "--target",
        dest="targets",
        action="append",
        default=[],
        metavar="CAPABILITY",
        help="compute capability to compile for, repeatable; default: as before",
    )

    asking = add("recommend", "ask a running server", RECOMMEND_EXAMPLE)
    asking.add_argument("address", metavar="HOST:PORT")
    asking.add_argument(
        "--item",
        dest="history",
        action="append",
        required=True,
        type=parse_interaction,
        metavar="ID[@TIME]",
        help="one interaction; repeat it, oldest first",
    )
    asking.add_argument("-k", type=int, help="how many items to return (default: 10)")
    asking.add_argument("--include-seen", action="store_true", help="allow items of the history")
    asking.add_argument("--exclude", action="append", default=[], metavar="ID", help="repeatable")
    asking.add_argument(
        "--timeout", type=parse_timeout, default=5.0, metavar="SECONDS", help="default: 5"
    )
    return parser


def parse_interaction(text: str) -> Interaction:
    """Split `ID[@TIME]` at its last @ where a time follows it."""
    item_id, _, time = text.rpartition("@")
    timestamp_ms = parse_time(time) if item_id else None
    if timestamp_ms is None:
        item_id = text
    if not item_id:
        raise argparse.ArgumentTypeError("an item id is empty")
    return Interaction(item_id, timestamp_ms)


def parse_time(text: str) -> int | None:
    """Read milliseconds since 1970 or a UTC date; None where the text is neither."""
    if _TIMESTAMP.fullmatch(text):
        return int(text)
    if not _DATE.fullmatch(text):
        return None
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        return None


def parse_timeout(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")


if __name__ == "__main__":
    sys.exit(main())
