"""Benchmarks of the engine: `python -m perf COMMAND --help`."""

import sys

from perf import command_line, encoder, prompt, recommend, saturation, topk
from perf.compare import command as compare
from perf.load import command as load

COMMANDS = {
    "load": ("a server's latency at a rate that it cannot slow down", load),
    "saturation": ("a saturated server beside back-to-back forwards of its batches", saturation),
    "recommend": ("Recommend against the bare forward, and that against PyTorch", recommend),
    "encoder": ("forwards beside the arithmetic that they must do", encoder),
    "topk": ("exact top-k beside NumPy or PyTorch, and the bytes it must read", topk),
    "prompt": ("rendering prompts from fragments beside tokenising them", prompt),
    "compare": ("the model in every way at hand: PyTorch, OpenVINO, llama.cpp, vLLM, …", compare),
}


def main() -> int:
    return command_line.main("python -m perf", __doc__, COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
