"""One way to declare commands: a module with `add_arguments` and `run`, its docstring the help."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import version

import msgspec

from engine.errors import EngineError
from llmsrec import terminal
from llmsrec.errors import LLMSRecError
from perf.errors import MeasureError


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults, and the docstring as it is."""


@terminal.command
def main(program: str, summary: str | None, commands: Mapping[str, tuple[str, str]]) -> int:
    """Run the command that was named; figures that it gives are printed as JSON.

    `commands` gives each one's summary and module, which is imported only for that command: most
    need PyTorch. Its `run` gives figures, or the exit code where it prints a report of its own.
    """
    parser = terminal.Parser(prog=program, description=summary)
    release = f"llmsrec-engine {version('llmsrec-engine')}"
    parser.add_argument("--version", action="version", version=release)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (title, module_name) in commands.items():
        command = subparsers.add_parser(name, help=title, formatter_class=Formatter)
        if name in sys.argv[1:2]:
            module = importlib.import_module(module_name)
            command.description, command.epilog = module.__doc__, getattr(module, "EXAMPLES", None)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args()
    try:
        result: msgspec.Struct | int = options.run(options)
    except (EngineError, LLMSRecError, MeasureError) as error:
        terminal.write_error(str(error))
        return 1
    if isinstance(result, int):
        return result
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    return 0


def count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def positive(text: str) -> float:
    return _number(text, sys.float_info.min, sys.float_info.max, "a number above 0")


def not_negative(text: str) -> float:
    return _number(text, 0, sys.float_info.max, "a number from 0 on")


def share(text: str) -> float:
    return _number(text, 0, 1, "a share between 0 and 1")


def _number(text: str, least: float, most: float, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return number
