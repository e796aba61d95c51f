"""Benchmarks of the engine: `python -m perf COMMAND --help`."""

import argparse
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

import msgspec

from engine.errors import EngineError
from llmsrec.errors import LLMSRecError
from perf.compare.errors import CompareError
from perf.load.errors import LoadError

FIGURES = {
    "recommend": ("Recommend against the bare forward, and that against PyTorch", "recommend"),
    "encoder": ("forwards beside the arithmetic that they must do", "encoder"),
    "pytorch": ("forwards in PyTorch beside the arithmetic that they do", "pytorch"),
    "topk": ("exact top-k beside NumPy and the bytes it must read", "topk"),
    "saturation": (
        "a saturated server beside back-to-back forwards of its batches",
        "saturation",
    ),
    "train": ("a training step beside the arithmetic that it does", "train"),
    "prompt": ("rendering prompts from fragments beside tokenising them", "prompt"),
    "plan-validity": ("whether a TensorRT plan loads on this GPU", "plan_validity"),
    "random-checkpoint": ("random weights of an LLM's shape, to time", "random_checkpoint"),
}
"""Commands that print their figures as JSON, and the modules behind them."""

REPORTS = {
    "load": (
        "a server's latency at a rate that it cannot slow down",
        "load.command",
        "load.arguments",
    ),
    "compare": (
        "the model in every way at hand: PyTorch, OpenVINO, llama.cpp, vLLM, plain FastAPI",
        "compare.command",
        "compare.arguments",
    ),
    "gpu-summary": (
        "what perf/gpu.sh measured, beside what it is meant to be",
        "gpu_summary",
        "gpu_summary",
    ),
}
"""Commands that print a report of their own and give the exit code: two modules each."""


def main() -> int:
    options = _parse(sys.argv[1:])
    try:
        exit_code: int = options.run(options)
    except (EngineError, LLMSRecError, LoadError, CompareError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return exit_code


def _parse(texts: Sequence[str]) -> argparse.Namespace:
    """Import only what the named command needs: most need PyTorch."""
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    modules = {name: (summary, module, module) for name, (summary, module) in FIGURES.items()}
    for name, (summary, module, arguments) in (modules | REPORTS).items():
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in texts[:1]:
            imported = importlib.import_module(f"perf.{module}")
            declared = importlib.import_module(f"perf.{arguments}")
            declared.add_arguments(command)
            command.description = imported.__doc__
            command.epilog = getattr(declared, "EXAMPLES", "")
            run = imported.run
            command.set_defaults(
                run=functools.partial(print_figures, run) if name in FIGURES else run
            )
    return parser.parse_args(texts)


def print_figures(
    measure: Callable[[argparse.Namespace], msgspec.Struct], options: argparse.Namespace
) -> int:
    figures = msgspec.json.encode(measure(options))
    sys.stdout.write(msgspec.json.format(figures, indent=2).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
