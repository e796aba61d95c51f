"""The command line: serve a bundle, check one, ask a running server."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.commands import recommend_arguments
from engine.errors import EngineError
from engine.signals import StopSignals
from llmsrec import terminal

SERVE_EXAMPLE = "example: python -m engine serve bundle --config server.toml --listen 0.0.0.0:50051"
CHECK_EXAMPLE = "example: python -m engine check bundle"
REBUILD_EXAMPLE = """\
A plan serves the library version and the GPUs that it was compiled for. This compiles the graph of
a TensorRT bundle anew, with the library that is installed.

example: python -m engine rebuild bundle --target 8.9"""


@terminal.command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "serve" and options.bundle is None and not options.check_config:
        parser.error("serve needs a BUNDLE, unless with --check-config")
    try:
        run(options)
    except EngineError as error:
        terminal.write_error(str(error))
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Import what a command needs and run it; a server heeds signals from before that."""
    if options.command == "serve":
        with StopSignals() as signals:
            importlib.import_module("engine.commands.serve").run(options, signals)
    else:
        importlib.import_module(f"engine.commands.{options.command}").run(options)


def make_parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(
        prog="python -m engine", description="Serves LLM-SRec recommenders over gRPC."
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show it and end")
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
    serving.add_argument("bundle", type=parse_path, nargs="?", metavar="BUNDLE")
    serving.add_argument(
        "--config", type=parse_path, metavar="FILE.toml", help="default: all defaults"
    )
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
    checking.add_argument("bundle", type=parse_path, metavar="BUNDLE")

    rebuilding = add("rebuild", "compile a bundle's TensorRT plan anew", REBUILD_EXAMPLE)
    rebuilding.add_argument("bundle", type=parse_path, metavar="BUNDLE")
    rebuilding.add_argument(
        "--target",
        dest="targets",
        action="append",
        default=[],
        metavar="CAPABILITY",
        help="compute capability to compile for, repeatable; default: as before",
    )

    asking = add("recommend", "ask a running server", recommend_arguments.EXAMPLE)
    recommend_arguments.add_arguments(asking)
    return parser


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for, which takes longer than all of the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        version = importlib.import_module("importlib.metadata").version("llmsrec-engine")
        sys.stdout.write(f"llmsrec-engine {version}\n")
        parser.exit()


def parse_path(text: str) -> Path:
    """Refuse what names nothing: an empty path would be the folder that one stands in."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
