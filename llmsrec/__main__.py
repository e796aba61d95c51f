"""The command line of the model: `python -m llmsrec COMMAND --help`."""

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

from llmsrec import evaluate, import_reference, prepare, refine, train, train_sasrec
from llmsrec.errors import LLMSRecError


class Command(NamedTuple):
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


COMMANDS = {
    "prepare": Command(
        "turn MovieLens or Amazon Reviews files into a dataset", prepare.add_arguments, prepare.run
    ),
    "train-sasrec": Command(
        "train the collaborative teacher", train_sasrec.add_arguments, train_sasrec.run
    ),
    "train": Command("train LLM-SRec around a frozen LLM", train.add_arguments, train.run),
    "refine": Command(
        "train a checkpoint's output heads further, on readouts computed once",
        refine.add_arguments,
        refine.run,
    ),
    "evaluate": Command(
        "measure a checkpoint beside its baselines", evaluate.add_arguments, evaluate.run
    ),
    "import-reference": Command(
        "turn the published code's files into a checkpoint",
        import_reference.add_arguments,
        import_reference.run,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m llmsrec", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except LLMSRecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error}; mend this and repeat: nothing was left half written\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
