"""Benchmarks of the engine: `python -m perf COMMAND --help`."""

import argparse
import functools
import sys
from collections.abc import Callable

import msgspec

from engine.errors import EngineError
from llmsrec.errors import LLMSRecError
from perf import (
    encoder,
    gpu_summary,
    plan_validity,
    prompt,
    pytorch,
    random_checkpoint,
    recommend,
    saturation,
    topk,
    train,
)
from perf.compare import arguments as compare_arguments
from perf.compare import command as compare
from perf.compare.errors import CompareError
from perf.load import arguments as load_arguments
from perf.load import command as load
from perf.load.errors import LoadError

FIGURES = {
    "recommend": ("Recommend against the bare forward, and that against PyTorch", recommend),
    "encoder": ("forwards beside the arithmetic that they must do", encoder),
    "pytorch": ("forwards in PyTorch beside the arithmetic that they do", pytorch),
    "topk": ("exact top-k beside NumPy and the bytes it must read", topk),
    "saturation": ("a saturated server beside back-to-back forwards of its batches", saturation),
    "train": ("a training step beside the arithmetic that it does", train),
    "prompt": ("rendering prompts from fragments beside tokenising them", prompt),
    "plan-validity": ("whether a TensorRT plan loads on this GPU", plan_validity),
    "random-checkpoint": ("random weights of an LLM's shape, to time", random_checkpoint),
}
"""Commands that print their figures as JSON."""

REPORTS = {
    "load": (
        "a server's latency at a rate that it cannot slow down",
        load,
        load_arguments.add_arguments,
        load_arguments.EXAMPLES,
    ),
    "compare": (
        "the model in every way at hand: PyTorch, OpenVINO, llama.cpp, vLLM, plain FastAPI",
        compare,
        compare_arguments.add_arguments,
        compare_arguments.EXAMPLES,
    ),
    "gpu-summary": (
        "what perf/gpu.sh measured, beside what it is meant to be",
        gpu_summary,
        gpu_summary.add_arguments,
        "",
    ),
}
"""Commands that print a report of their own, and give the exit code."""


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
    for name, (summary, module, add_arguments, examples) in REPORTS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args()
    try:
        exit_code: int = options.run(options)
    except (EngineError, LLMSRecError, LoadError, CompareError) as error:
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
