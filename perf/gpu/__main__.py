"""The steps of `perf/gpu.sh`: `python -m perf.gpu COMMAND --help`."""

import sys

from perf import command_line

COMMANDS = {
    "random-checkpoint": (
        "random weights of an LLM's shape, to time",
        "perf.gpu.random_checkpoint",
    ),
    "pytorch": ("forwards in PyTorch beside the arithmetic that they do", "perf.gpu.pytorch"),
    "plan-validity": ("whether a TensorRT plan loads on this GPU", "perf.gpu.plan_validity"),
    "summary": ("what perf/gpu.sh measured, beside what it is meant to be", "perf.gpu.summary"),
}

if __name__ == "__main__":
    sys.exit(command_line.main("python -m perf.gpu", __doc__, COMMANDS))
