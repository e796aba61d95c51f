"""Runs `rebuild`: compiles a bundle's TensorRT plan anew."""

import argparse
import sys

from engine.upkeep.rebuild import rebuild_plan


def run(options: argparse.Namespace) -> None:
    plan = rebuild_plan(options.bundle, options.targets, report_step)
    sys.stdout.write(f"plan       {plan.file}, by {plan.library} {plan.library_version}\n")


def report_step(phase: str, num_done: int, num_steps: int) -> None:
    sys.stderr.write(f"TensorRT: {phase}, {num_done} of {num_steps} steps\n")
