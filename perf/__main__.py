"""Benchmarks of the engine: `python -m perf COMMAND --help`."""

import argparse
import sys

import msgspec

from engine.errors import EngineError
from perf import recommend
from perf.load import arguments as load_arguments
from perf.load import command as load
from perf.load.errors import LoadError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "recommend",
        help="Recommend against the bare forward, and that against PyTorch",
        description=recommend.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recommend.add_arguments(command)
    command.set_defaults(run=run_recommend)
    command = commands.add_parser(
        "load",
        help="a server's latency at a rate that it cannot slow down",
        description=load.__doc__,
        epilog=load_arguments.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    load_arguments.add_arguments(command)
    command.set_defaults(run=load.run)
    options = parser.parse_args()
    try:
        exit_code: int = options.run(options)
    except (EngineError, LoadError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return exit_code


def run_recommend(options: argparse.Namespace) -> int:
    """Print the figures as JSON."""
    figures = msgspec.json.encode(recommend.run(options))
    sys.stdout.write(msgspec.json.format(figures, indent=2).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
