"""What a bundle holds for a GPU: sizes measured on real prompts, a plan compiled or taken over."""

import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress, TaskID

from engine.bundle.manifest import (
    GRAPH_FILE,
    FileEntry,
    LibraryName,
    Plan,
    describe_file,
    graph_digest,
    read_manifest,
)
from engine.encoders.tensorrt.compiler import compile_plan, find_targets
from engine.encoders.tensorrt.library import load_library
from engine.errors import BundleError
from engine.sizes import Size
from export.errors import BuildError
from llmsrec.prompt import MAX_PROMPT_TOKENS

LENGTH_STEP = 64
"""Tokens to which a size's length is rounded up."""
SIZE_TOKENS = 16_384
"""Padded tokens of the largest micro-batch: they fill a data-centre GPU, with a few 100 MB."""


@dataclass(frozen=True)
class PlanOptions:
    library: LibraryName | None = None
    """None takes the one that is installed."""
    targets: Sequence[str] = ()
    """Compute capabilities, such as 8.9; none leaves it to the library."""
    sizes: Sequence[Size] = ()
    """The largest micro-batches; none measures them on the checkpoint's histories."""


def measure_sizes(lengths: Sequence[int]) -> list[Size]:
    """Give one user's size, the usual micro-batch's and the longest prompts', in this order."""
    usual = int(np.ceil(np.percentile(lengths, 99) / LENGTH_STEP)) * LENGTH_STEP
    usual = min(usual, MAX_PROMPT_TOKENS)
    sizes = [
        Size(1, usual),
        Size(SIZE_TOKENS // usual, usual),
        Size(SIZE_TOKENS // MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS),
    ]
    return sizes if usual < MAX_PROMPT_TOKENS else sizes[:2]


def add_plan(
    folder: Path, output: Path, options: PlanOptions, lengths: Sequence[int], bars: Progress
) -> Plan:
    """Compile the graph in `folder`, or copy the plan of the bundle at `output` where it fits.

    Raises:
        BackendUnavailable: the library is missing.
        PlanError: it refuses the graph or a target.
    """
    library = load_library(options.library)
    files = {file.name: describe_file(file) for file in folder.glob(f"{GRAPH_FILE}*")}
    plan = Plan(
        graph_sha256=graph_digest(files),
        library=library.name,
        library_version=library.version,
        compute_capabilities=find_targets(library, options.targets),
        sizes=list(options.sizes) or measure_sizes(lengths),
    )
    if _is_held(output, plan):
        shutil.copyfile(output / plan.file, folder / plan.file)
        bars.console.print(f"{library.name}: the plan of {output} fits this graph and is kept")
        return plan
    started = time.monotonic()
    with (folder / plan.file).open("wb") as file:
        compile_plan(library, folder / GRAPH_FILE, plan, file, _Reporter(bars))
        num_bytes = file.tell()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    bars.console.print(
        f"{library.name} {library.version}: plan of {num_bytes / 1e6:.0f} MB compiled in"
        f" {time.monotonic() - started:.0f} s, peak memory of the build {peak_bytes / 1e9:.1f} GB",
        soft_wrap=True,
    )
    return plan


def require_plan_can_be_made(options: PlanOptions) -> None:
    """Refuse what cannot be compiled, before any long work.

    Raises:
        BackendUnavailable: the library is missing.
        PlanError: it does not know a target.
    """
    find_targets(load_library(options.library), options.targets)


def require_longest_fits(options: PlanOptions) -> None:
    """Refuse sizes of which none holds the longest prompt.

    Raises:
        BuildError: with the size to add.
    """
    longest = max((size.num_tokens for size in options.sizes), default=MAX_PROMPT_TOKENS)
    if longest < MAX_PROMPT_TOKENS:
        raise BuildError(
            f"a prompt may have {MAX_PROMPT_TOKENS} tokens, and no --size holds as many; add"
            f" --size 1x{MAX_PROMPT_TOKENS}"
        )


def _is_held(bundle: Path, plan: Plan) -> bool:
    """Tell whether an older bundle holds this very plan, undamaged."""
    try:
        files: Mapping[str, FileEntry] = read_manifest(bundle).files
        return describe_file(bundle / plan.file) == files.get(plan.file)
    except (BundleError, OSError):
        return False


class _Reporter:
    """Shows each phase of a compilation as a bar while it lasts."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, num_done: int, num_steps: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(f"TensorRT: {phase}", total=num_steps)
        self._bars.update(self._tasks[phase], completed=num_done, total=num_steps)
        if num_done == num_steps:
            self._bars.remove_task(self._tasks.pop(phase))
