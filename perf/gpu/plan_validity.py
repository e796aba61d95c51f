"""Finds out whether the plan of a bundle loads on this machine's GPU, as its library sees it.

TensorRT-RTX names the compute capabilities that it supports, and Hopper's is not among them; this
asks for its own verdict on the plan's header, and then loads the plan.
"""

import argparse
from contextlib import closing
from pathlib import Path

import msgspec

from engine.bundle.manifest import TensorRT, read_manifest
from engine.encoders.tensorrt.library import Library, load_library, make_logger
from engine.errors import PlanError
from engine.gpu import Gpu


class Verdict(msgspec.Struct, frozen=True):
    validity: str | None
    """As the header has it; None where the library does not tell."""
    reasons: list[str]
    """Why a plan is not valid, as the library names it."""
    loads: bool
    errors: list[str]


class PlanValidity(msgspec.Struct, frozen=True):
    library: str
    library_version: str
    compute_capability: str
    """What this GPU has."""
    plan_compute_capabilities: list[str]
    """What the plan was compiled for; none where that was left to the library."""
    plan_bytes: int
    verdict: Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="built with --backend tensorrt")


def run(arguments: argparse.Namespace) -> PlanValidity:
    """Ask the library.

    Raises:
        BackendUnavailable: there is no GPU or no library.
        PlanError: the bundle has no plan.
    """
    encoder = read_manifest(arguments.bundle).encoder
    if not isinstance(encoder, TensorRT):
        raise PlanError(f"{arguments.bundle} holds no plan; build it with --backend tensorrt")
    plan = encoder.plan
    library = load_library(plan.library)
    with closing(Gpu()) as gpu:
        content = (arguments.bundle / plan.file).read_bytes()
        return PlanValidity(
            library=library.name,
            library_version=library.version,
            compute_capability=gpu.compute_capability,
            plan_compute_capabilities=plan.compute_capabilities,
            plan_bytes=len(content),
            verdict=examine(library, content),
        )


def examine(library: Library, plan: bytes) -> Verdict:
    """Let the library judge a plan by its header, where it can, and load it."""
    errors: list[str] = []
    runtime = library.module.Runtime(make_logger(library, errors.append))
    validity, reasons = None, []
    if hasattr(runtime, "get_engine_validity"):
        found, bits = runtime.get_engine_validity(plan)
        flags = library.module.EngineInvalidityDiagnostics.__members__
        validity = found.name.lower()
        reasons = [name.lower() for name, flag in flags.items() if int(flag) & bits]
    loads = runtime.deserialize_cuda_engine(plan) is not None
    return Verdict(validity, reasons, loads, errors)
