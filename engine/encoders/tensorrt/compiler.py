"""Compiles an encoder graph into a plan, for the GPUs and sizes that are asked for."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from engine.bundle.manifest import Plan
from engine.encoders.tensorrt.library import Library, make_logger
from engine.errors import PlanError
from engine.gpu import Gpu
from engine.sizes import Size
from engine.untyped import Untyped

MAX_ITEMS = (2**31 - 1) // 64
"""Rows of an item table that TensorRT can index; a plan leaves their number open."""

Report = Callable[[str, int, int], None]
"""Takes a phase of the compilation, its steps done and its steps in all; from any thread."""


def find_targets(library: Library, targets: Sequence[str]) -> list[str]:
    """Give the compute capabilities that a plan is for: those asked for, or this GPU's.

    Raises:
        BackendUnavailable: it compiles only for a GPU that is not there.
        PlanError: the library does not know one.
    """
    library.check_targets(targets)
    if library.targets:
        return list(targets)
    with closing(Gpu()) as gpu:
        return [gpu.compute_capability]


def compile_plan(library: Library, graph: Path, plan: Plan, file: BinaryIO, report: Report) -> None:
    """Compile what `plan` describes, in the precisions that the graph states, into a file.

    The plan, which may have gigabytes, is written as it is made.

    Raises:
        OSError: it cannot be written.
        PlanError: the library refuses the graph, or needs a GPU and finds none.
    """
    complaints: list[str] = []
    logger, writer = make_logger(library, complaints.append), _make_writer(library, file)

    def require(made: Untyped, purpose: str) -> Untyped:
        if made:
            return made
        problems = "; ".join(complaints) or "it does not say why"
        remedy = "see docs/gpu.md" if library.targets else "it compiles only where there is a GPU"
        raise PlanError(f"{library.name} could not {purpose}: {problems}; {remedy}")

    builder = require(library.module.Builder(logger), "start")
    network = builder.create_network(library.network_flags)
    parser = library.module.OnnxParser(network, logger)
    require(parser.parse_from_file(str(graph)), f"read {graph.name}")
    config = builder.create_builder_config()
    config.progress_monitor = _make_monitor(library, report)
    configure(library, config, plan.compute_capabilities)
    for size in plan.sizes:
        config.add_optimization_profile(make_profile(builder, size))
    is_built = builder.build_serialized_network_to_stream(network, config, writer)
    if writer.problem is not None:
        raise writer.problem
    require(is_built, "compile the graph")


def configure(library: Library, config: Untyped, targets: Sequence[str]) -> None:
    """Set the library's flags and the compute capabilities to compile for."""
    for flag in library.builder_flags:
        config.set_flag(flag)
    if library.targets and targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(library.targets[target], index)


def make_profile(builder: Untyped, size: Size) -> Untyped:
    """Make the optimization profile of the micro-batches that a size holds."""
    profile = builder.create_optimization_profile()
    batch, tokens = size.num_prompts, size.num_tokens
    for name in ("input_ids", "slot_ids"):
        profile.set_shape(name, (1, 1), (batch, tokens), (batch, tokens))
    profile.set_shape("readout_position", (1,), (batch,), (batch,))
    profile.set_shape("item_table", (1, 64), (100_000, 64), (MAX_ITEMS, 64))
    return profile


def _make_writer(library: Library, file: BinaryIO) -> Untyped:
    class Writer(library.module.IStreamWriter):  # type: ignore[misc,name-defined]
        """Keeps what went wrong: no exception finds its way through the library."""

        def __init__(self) -> None:
            super().__init__()
            self.problem: OSError | None = None

        def write(self, content: bytes) -> int:
            try:
                return file.write(content)
            except OSError as error:
                self.problem = error
                return 0

    return Writer()


def _make_monitor(library: Library, report: Report) -> Untyped:
    class Monitor(library.module.IProgressMonitor):  # type: ignore[misc,name-defined]
        """Tells of the outermost phase; those within it come by the hundred."""

        def __init__(self) -> None:
            super().__init__()
            self.num_steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            if parent is None:
                self.num_steps[phase] = num_steps
                report(phase, 0, num_steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.num_steps:
                report(phase, step + 1, self.num_steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()
