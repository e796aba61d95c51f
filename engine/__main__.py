"""The command line: serve a bundle, check one, ask a running server."""

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from engine.asking import command as asking_command
from engine.config import Config, load_config
from engine.errors import EngineError
from engine.live import Live, open_generation
from engine.rpc.server import serve
from engine.upkeep.check import check_bundle
from engine.upkeep.rebuild import rebuild_plan
from llmsrec import terminal

SERVE_EXAMPLE = "example: python -m engine serve bundle --config server.toml --listen 0.0.0.0:50051"
CHECK_EXAMPLE = "example: python -m engine check bundle"
REBUILD_EXAMPLE = """\
A plan serves the library version and the GPUs that it was compiled for. This compiles the graph of
a TensorRT bundle anew, with the library that is installed.

example: python -m engine rebuild bundle --target 8.9"""


@terminal.command
def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except EngineError as error:
        terminal.write_error(str(error))
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(
        prog="python -m engine", description="Serves LLM-SRec recommenders over gRPC."
    )
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    serving = add("serve", "answer Recommend calls from a bundle, until SIGTERM", SERVE_EXAMPLE)
    serving.add_argument("bundle", type=parse_path, metavar="BUNDLE")
    serving.add_argument(
        "--config", type=parse_path, metavar="FILE.toml", help="default: all defaults"
    )
    serving.add_argument("--listen", metavar="HOST:PORT", help="overrides server.listen")
    serving.set_defaults(run=run_serve)

    checking = add("check", "verify a bundle", CHECK_EXAMPLE)
    checking.add_argument("bundle", type=parse_path, metavar="BUNDLE")
    checking.set_defaults(run=run_check)

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
    rebuilding.set_defaults(run=run_rebuild)

    asking = add("recommend", "ask a running server", asking_command.EXAMPLE)
    asking_command.add_arguments(asking)
    asking.set_defaults(run=asking_command.run)
    return parser


def parse_path(text: str) -> Path:
    """Refuse what names nothing: an empty path would be the folder that one stands in."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def run_serve(options: argparse.Namespace) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    config = make_config(options.config, options.listen)
    with contextlib.closing(Live(open_generation(options.bundle, config))) as live:
        asyncio.run(serve(live, config))


def make_config(path: Path | None, listen: str | None) -> Config:
    """Read the file, if any; `listen` overrides its server.listen."""
    config = Config() if path is None else load_config(path)
    if listen is None:
        return config
    server = msgspec.structs.replace(config.server, listen=listen)
    return msgspec.structs.replace(config, server=server)


def run_check(options: argparse.Namespace) -> None:
    _write(check_bundle(options.bundle))


def run_rebuild(options: argparse.Namespace) -> None:
    plan = rebuild_plan(options.bundle, options.targets, report_step)
    _write([f"plan       {plan.file}, by {plan.library} {plan.library_version}"])


def report_step(phase: str, num_done: int, num_steps: int) -> None:
    sys.stderr.write(f"TensorRT: {phase}, {num_done} of {num_steps} steps\n")


def _write(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
