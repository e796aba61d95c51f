"""Benchmarks of the engine: `python -m perf COMMAND --help`."""

import sys

from perf import command_line

COMMANDS = {
    "load": ("a server's latency at a rate that it cannot slow down", "perf.load.command"),
    "saturation": (
        "a saturated server beside back-to-back forwards of its batches",
        "perf.saturation",
    ),
    "recommend": ("Recommend against the bare forward, and that against PyTorch", "perf.recommend"),
    "encoder": ("forwards beside the arithmetic that they must do", "perf.encoder"),
    "topk": ("exact top-k beside NumPy or PyTorch, and the bytes it must read", "perf.topk"),
    "prompt": ("rendering prompts from fragments beside tokenising them", "perf.prompt"),
    "compare": (
        "the model in every way at hand: PyTorch, OpenVINO, llama.cpp, vLLM, …",
        "perf.compare.command",
    ),
}


def main() -> int:
    return command_line.main("python -m perf", __doc__, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
