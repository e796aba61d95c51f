"""Runs `check`: verifies a bundle and describes it."""

import argparse
import sys

from engine.upkeep.check import check_bundle


def run(options: argparse.Namespace) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in check_bundle(options.bundle)))
