"""The command line of the model: `python -m llmsrec COMMAND --help`."""

import argparse
import importlib
import sys
from importlib.metadata import version

from llmsrec import arguments, terminal
from llmsrec.errors import LLMSRecError

COMMANDS = {
    "prepare": (
        "turn MovieLens or Amazon Reviews files into a dataset",
        arguments.add_prepare,
        "llmsrec.prepare",
    ),
    "train-sasrec": (
        "train the collaborative teacher",
        arguments.add_train_sasrec,
        "llmsrec.train_sasrec",
    ),
    "train": ("train LLM-SRec around a frozen LLM", arguments.add_train, "llmsrec.train"),
    "train-segments": (
        "train LLM-SRec over item segments, which cost a small part of a whole prompt",
        arguments.add_train_segments,
        "llmsrec.segments.train",
    ),
    "study": (
        "train over item segments with several settings, and rank them in validation",
        arguments.add_study,
        "llmsrec.segments.study",
    ),
    "refine": (
        "train a checkpoint's output heads further, on readouts computed once",
        arguments.add_refine,
        "llmsrec.refine",
    ),
    "evaluate": (
        "measure a checkpoint beside its baselines",
        arguments.add_evaluate,
        "llmsrec.evaluate",
    ),
    "import-reference": (
        "turn the published code's files into a checkpoint",
        arguments.add_import_reference,
        "llmsrec.import_reference",
    ),
}
"""What each does, what it takes, and its module, imported only to run it: most need PyTorch."""

_REMEDY = "install what training needs with pip install 'llmsrec-engine[train]'"


@terminal.command
def main() -> int:
    options = make_parser().parse_args()
    try:
        importlib.import_module(options.module).run(options)
    except ModuleNotFoundError as error:
        terminal.write_error(f"{error}; {_REMEDY}")
        return 1
    except LLMSRecError as error:
        terminal.write_error(str(error))
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        terminal.write_error(f"{error}; mend this and repeat: nothing was left half written")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(prog="python -m llmsrec", description=__doc__)
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, add_arguments, module) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        add_arguments(subparser)
        subparser.set_defaults(module=module)
    return parser


if __name__ == "__main__":
    sys.exit(main())
