"""TensorRT's runtime on the host: the encoder graph on ONNX Runtime, from address to address."""

import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from engine.sizes import Size
from support.fake_cuda import STREAM, FakeCuda

VERSION = "11.0"
SCRATCH_BYTES = 4096
FORWARD_MS = 10.0
TYPES = {
    "input_ids": np.int64,
    "slot_ids": np.int64,
    "readout_position": np.int64,
    "item_table": np.float32,
    "user_vector": np.float32,
    "item_vector": np.float32,
}


def write_plan(path: Path, graph: Path, profiles: Sequence[Size]) -> None:
    sizes = [(profile.num_prompts, profile.num_tokens) for profile in profiles]
    path.write_text(json.dumps({"graph": str(graph), "profiles": sizes}))


def make_module(name: str, cuda: FakeCuda) -> ModuleType:
    """Make the module `tensorrt`, or `tensorrt_rtx`, which captures CUDA graphs by itself."""
    module: Any = ModuleType(name)
    module.__version__ = VERSION
    module.ILogger = Logger
    module.Runtime = lambda logger: Runtime(cuda, logger)
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    if name == "tensorrt_rtx":
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    made: ModuleType = module
    return made


class Logger:
    Severity = SimpleNamespace(ERROR=1)

    def log(self, severity: int, text: str) -> None: ...


class Runtime:
    """Loads what `write_plan` wrote, until `refuses` says why not."""

    refuses = ""

    def __init__(self, cuda: FakeCuda, logger: Logger) -> None:
        self._cuda = cuda
        self._logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> "Engine | None":  # noqa: ANN401
        if self.refuses:
            self._logger.log(2, "loading")
            self._logger.log(Logger.Severity.ERROR, self.refuses)
            return None
        return Engine(self._cuda, json.loads(bytes(plan)))


class RuntimeConfig:
    allocation: str
    cuda_graph_strategy: str | None = None
    dynamic_shapes_kernel_specialization_strategy: str | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy


class Engine:
    device_memory_size_v2 = SCRATCH_BYTES
    max_items = 1000

    def __init__(self, cuda: FakeCuda, description: dict[str, Any]) -> None:
        self.cuda = cuda
        self.profiles = description["profiles"]
        self.session = onnxruntime.InferenceSession(
            description["graph"], providers=["CPUExecutionProvider"]
        )

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        assert name == "user_vector"
        return -1, 128

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig) -> "Context":
        context = Context(self, config)
        self.cuda.contexts.append(weakref.ref(context))
        return context


class Context:
    """Runs one size; `is_broken` lets a run fail as a library does, by its answer."""

    def __init__(self, engine: Engine, config: RuntimeConfig) -> None:
        assert config.allocation == "user"
        self.config = config
        self.num_runs = 0
        self.is_broken = False
        self._engine, self._cuda = engine, engine.cuda
        self._cuda.num_contexts += 1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0

    def __del__(self) -> None:
        self._cuda.num_contexts -= 1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream == STREAM
        self.profile: list[int] = self._engine.profiles[profile]
        return True

    def set_device_memory(self, address: int, num_bytes: int) -> None:
        assert num_bytes >= SCRATCH_BYTES
        self._scratch = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        if name == "item_table":
            return shape[0] <= self._engine.max_items
        assert all(size <= most for size, most in zip(shape, self.profile, strict=False))
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        if self.is_broken:
            return False
        # What a library does in its first run, a graph cannot record.
        assert self.num_runs or not self._cuda.is_capturing
        self.num_runs += 1
        self._cuda.queue(self._forward(), FORWARD_MS)
        return True

    def _forward(self) -> Callable[[], None]:
        batch = self._shapes["input_ids"][0]
        shapes = {**self._shapes, "user_vector": (batch, 128), "item_vector": (batch, 128)}

        def run() -> None:
            self._cuda.view(self._scratch, (SCRATCH_BYTES,), np.uint8)[:] = 0xEE
            arrays = {
                name: self._cuda.view(self._addresses[name], shape, TYPES[name])
                for name, shape in shapes.items()
            }
            towers = ("user_vector", "item_vector")
            feed = {name: array for name, array in arrays.items() if name not in towers}
            for tower, vectors in zip(
                towers, self._engine.session.run(list(towers), feed), strict=True
            ):
                arrays[tower][:] = vectors

        return run
