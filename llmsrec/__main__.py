"""The command line of the model: `python -m llmsrec COMMAND --help`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from llmsrec.errors import LLMSRecError

COMMANDS = {
    "prepare": ("turn MovieLens or Amazon Reviews files into a dataset", "llmsrec.prepare"),
    "train-sasrec": ("train the collaborative teacher", "llmsrec.train_sasrec"),
    "train": ("train LLM-SRec around a frozen LLM", "llmsrec.train"),
    "refine": (
        "train a checkpoint's output heads further, on readouts computed once",
        "llmsrec.refine",
    ),
    "evaluate": ("measure a checkpoint beside its baselines", "llmsrec.evaluate"),
    "import-reference": (
        "turn the published code's files into a checkpoint",
        "llmsrec.import_reference",
    ),
}
"""What each does, and its module, which is imported only to run it: most import PyTorch."""

_REMEDY = "install what training needs with pip install 'llmsrec-engine[train]'"


def main() -> int:
    try:
        arguments = _parse(sys.argv[1:])
        arguments.run(arguments)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {error}; {_REMEDY}\n")
        return 1
    except LLMSRecError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error}; mend this and repeat: nothing was left half written\n")
        return 1
    return 0


def _parse(texts: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmsrec", description=__doc__)
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, module_name) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name in texts[:1]:
            module = importlib.import_module(module_name)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser.parse_args(texts)


if __name__ == "__main__":
    sys.exit(main())
