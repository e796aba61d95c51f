"""Loads a plan onto the GPU, after looking whether it was compiled for this one."""

import logging
import mmap
from collections import deque
from pathlib import Path

from engine.bundle.manifest import Plan
from engine.encoders.tensorrt.library import Library, make_logger
from engine.errors import PlanError
from engine.gpu import Gpu
from engine.untyped import Untyped

MAX_COMPLAINTS = 8
_LOG = logging.getLogger(__name__)


def load_plan(library: Library, bundle: Path, plan: Plan, gpu: Gpu) -> Untyped:
    """Give the engine of a bundle's plan; its bytes are mapped, not held in memory twice.

    Raises:
        PlanError: it is for another GPU or version, or the library does not load it.
    """
    check_plan(plan, library.version, gpu.compute_capability, bundle)
    path, complaints = bundle / plan.file, deque[str](maxlen=MAX_COMPLAINTS)

    def report(text: str) -> None:
        complaints.append(text)
        _LOG.error("%s: %s", library.name, text)

    logger = make_logger(library, report)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        engine = library.module.Runtime(logger).deserialize_cuda_engine(content)
    if engine is None:
        raise PlanError(
            f"{library.name} {library.version} cannot load {path} on a GPU of compute capability"
            f" {gpu.compute_capability}: {'; '.join(complaints)}; compile it for this one:"
            f" python -m engine rebuild {bundle} --target {gpu.compute_capability}"
        )
    return engine


def check_plan(plan: Plan, library_version: str, compute_capability: str, bundle: Path) -> None:
    """Refuse a plan of another library version or for other GPUs, with the command that mends it.

    Raises:
        PlanError: saying what is there and what is needed.
    """
    command = f"python -m engine rebuild {bundle}"
    if plan.library_version != library_version:
        raise PlanError(
            f"{bundle}: the plan was compiled by {plan.library} {plan.library_version}, installed"
            f" is {library_version}; compile it again: {command}"
        )
    if plan.compute_capabilities and compute_capability not in plan.compute_capabilities:
        raise PlanError(
            f"{bundle}: the plan is for GPUs of compute capability"
            f" {', '.join(plan.compute_capabilities)}, this one has {compute_capability}; compile"
            f" it for this one: {command} --target {compute_capability}"
        )
