"""TensorRT or TensorRT-RTX: nearly one Python API, and in this file all that differs."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from engine.bundle.manifest import LibraryName
from engine.errors import BackendUnavailable, PlanError
from engine.untyped import Untyped

REMEDY = (
    "install tensorrt_rtx (pip install 'llmsrec-engine[tensorrt-rtx]'; GeForce and RTX GPUs of"
    " compute capability 7.5 to 8.9 and 12.x) or tensorrt (data-centre GPUs; see docs/gpu.md)"
)


@dataclass(frozen=True)
class Library:
    name: LibraryName
    module: Untyped

    @property
    def version(self) -> str:
        version: str = self.module.__version__
        return version

    @property
    def targets(self) -> dict[str, Untyped]:
        """The compute capabilities, such as 8.9, that it compiles for on any machine."""
        members = getattr(self.module, "ComputeCapability", None)
        if members is None:
            return {}
        return {
            f"{name[2:-1]}.{name[-1]}": member
            for name, member in members.__members__.items()
            if name.startswith("SM")
        }

    def check_targets(self, targets: Sequence[str]) -> None:
        """Refuse compute capabilities that it does not compile for.

        Raises:
            PlanError: naming them and those that it knows.
        """
        unknown = [target for target in targets if target not in self.targets]
        if unknown:
            known = ", ".join(self.targets) or "only the GPU of the machine; give no target"
            raise PlanError(
                f"{self.name} does not compile for compute capability {', '.join(unknown)}; it"
                f" knows {known}"
            )

    @property
    def network_flags(self) -> int:
        """Strong typing, where it is still a choice."""
        flags = self.module.NetworkDefinitionCreationFlag
        return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0

    @property
    def captures_graphs(self) -> bool:
        """Whether a context records its CUDA graph by itself."""
        return hasattr(self.module, "CudaGraphStrategy")

    @property
    def builder_flags(self) -> list[Untyped]:
        """What makes a plan run in memory of the engine's alone, where that is a choice."""
        flag = getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        return [] if flag is None else [flag]

    def make_context(self, engine: Untyped) -> Untyped:
        """Give an execution context, yet without memory for its work; None where that fails."""
        trt, config = self.module, engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self.captures_graphs:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            # Else the first forwards would run on slower kernels, while those for a size compile.
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return engine.create_execution_context(config)


def load_library(name: LibraryName | None = None) -> Library:
    """Import the library of that name, or the first that is installed.

    Raises:
        BackendUnavailable: it is not installed, or lacks a library of its own.
    """
    names: tuple[LibraryName, ...] = get_args(LibraryName) if name is None else (name,)
    for each in names:
        try:
            return Library(each, importlib.import_module(each))
        except ModuleNotFoundError as error:
            if error.name != each:
                raise BackendUnavailable(
                    f"{each} is installed but lacks {error.name}; {REMEDY}"
                ) from error
        except (ImportError, OSError) as error:
            raise BackendUnavailable(f"{each} is installed but does not load ({error})") from error
    raise BackendUnavailable(f"not installed: {', '.join(names)}; {REMEDY}")


def make_logger(library: Library, report: Callable[[str], None]) -> Untyped:
    """Give a logger that reports what the library complains of."""
    trt = library.module

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def log(self, severity: Untyped, text: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                report(text)

    return Logger()
