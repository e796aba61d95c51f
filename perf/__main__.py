"""Benchmarks of the engine: `python -m perf COMMAND --help`."""

import argparse
import functools
import sys
from collections.abc import Callable

import msgspec

from engine.errors import EngineError
from perf import encoder, prompt, recommend, topk
from perf.load import arguments as load_arguments
from perf.load import command as load
from perf.load.errors import LoadError

FIGURES = {
    "recommend": ("Recommend against the bare forward, and that against PyTorch", recommend),
    "encoder": ("one forward beside the arithmetic it must do", encoder),
    "topk": ("exact top-k beside NumPy and the bytes it must read", topk),
    "prompt": ("rendering prompts from fragments beside tokenising them", prompt),
}
"""Commands that print their figures as JSON."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, module) in FIGURES.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=functools.partial(print_figures, module.run))
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


def print_figures(
    measure: Callable[[argparse.Namespace], msgspec.Struct], options: argparse.Namespace
) -> int:
    figures = msgspec.json.encode(measure(options))
    sys.stdout.write(msgspec.json.format(figures, indent=2).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
