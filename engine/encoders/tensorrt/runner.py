"""Runs a plan's forwards at fixed sizes: one execution context and one CUDA graph for each."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.encoders.graph_inputs import GraphInputs
from engine.encoders.tensorrt.library import Library
from engine.encoders.timing import measure_ready
from engine.errors import (
    BackendUnavailable,
    EncodingFailed,
    EngineError,
    GpuFailed,
    PlanError,
)
from engine.gpu import Gpu
from engine.sizes import Size, sizes_within
from engine.untyped import Untyped


class PlanRunner:
    """Runs one size after another, on one stream, so that they share all their memory.

    `addresses` are those of the graph's inputs and outputs on the GPU, by name.
    """

    def __init__(
        self,
        library: Library,
        engine: Untyped,
        gpu: Gpu,
        profiles: Sequence[Size],
        item_table: NDArray[np.float32],
    ) -> None:
        self._gpu = gpu
        self.sizes = sizes = sizes_within(profiles)
        self._captures_itself = library.captures_graphs
        self.vector_dim: int = engine.get_tensor_shape("user_vector")[1]
        self.max_prompts = max(size.num_prompts for size in sizes)
        self.max_padded_tokens = max(size.num_padded_tokens for size in sizes)
        vectors_bytes = self.max_prompts * self.vector_dim * 4
        self.addresses = {
            "input_ids": gpu.allocate(self.max_padded_tokens * 8),
            "slot_ids": gpu.allocate(self.max_padded_tokens * 8),
            "readout_position": gpu.allocate(self.max_prompts * 8),
            "item_table": gpu.allocate(item_table.nbytes),
            "user_vector": gpu.allocate(vectors_bytes),
            "item_vector": gpu.allocate(vectors_bytes),
        }
        contiguous = np.ascontiguousarray(item_table)
        gpu.upload(self.addresses["item_table"], contiguous)
        scratch_bytes: int = engine.device_memory_size_v2
        self._scratch = gpu.allocate(max(1, scratch_bytes)), scratch_bytes
        self._contexts: dict[Size, Untyped] = {}
        self._graphs: dict[Size, Untyped] = {}
        with gpu.settled():
            for size in sizes:
                self._contexts[size] = library.make_context(engine)
                profile = _find_profile(profiles, size)
                problem = self._bind(self._contexts[size], profile, size, item_table.shape)
                if problem is not None:
                    # None outlives the memory that it was given.
                    self._contexts.clear()
                    raise problem

    def upload(self, inputs: GraphInputs) -> None:
        """Queue the copies of a size's inputs from pinned memory."""
        for name, array in inputs._asdict().items():
            self._gpu.upload(self.addresses[name], array)

    def make_ready(self, size: Size) -> float:
        """Run a size, which makes its kernels ready, record its CUDA graph, and time that."""
        with self._gpu.settled():
            self._run(size)
        if not self._captures_itself:
            self._graphs[size] = self._gpu.capture(partial(self._run, size))
        self._run_to_end(size)
        return measure_ready(size, partial(self._run_to_end, size))

    def queue(self, size: Size) -> None:
        """Queue the forward of a size on the stream."""
        if (graph := self._graphs.get(size)) is None:
            self._run(size)
        else:
            self._gpu.launch(graph)

    def close(self) -> None:
        """Let go of the contexts, once nothing runs any more."""
        with suppress(GpuFailed):
            self._gpu.synchronize()
        self._graphs, self._contexts = {}, {}

    def _run(self, size: Size) -> None:
        if not self._contexts[size].execute_async_v3(self._gpu.stream):
            raise EncodingFailed(f"TensorRT could not run {size}; the server's log has its words")

    def _run_to_end(self, size: Size) -> None:
        with self._gpu.settled():
            self.queue(size)

    def _bind(
        self, context: Untyped, profile: int, size: Size, table_shape: tuple[int, ...]
    ) -> EngineError | None:
        """Fix profile, memory, shapes and addresses; give what is in the way."""
        if context is None or not context.set_optimization_profile_async(profile, self._gpu.stream):
            return self._refusal(size)
        context.set_device_memory(*self._scratch)
        shapes = {
            "input_ids": (size.num_prompts, size.num_tokens),
            "slot_ids": (size.num_prompts, size.num_tokens),
            "readout_position": (size.num_prompts,),
            "item_table": table_shape,
        }
        if not all(context.set_input_shape(name, shape) for name, shape in shapes.items()):
            return PlanError(
                f"the plan does not take {size} over {table_shape[0]} items; compile it again:"
                " python -m engine rebuild"
            )
        bound = [context.set_tensor_address(name, at) for name, at in self.addresses.items()]
        return None if all(bound) else self._refusal(size)

    def _refusal(self, size: Size) -> BackendUnavailable:
        return BackendUnavailable(
            f"TensorRT cannot make {size} ready, its words are above; the GPU has"
            f" {self._gpu.free_bytes / 1e6:.0f} MB free: if they are too few, stop what else uses"
            " it, or build with a smaller --size"
        )


def _find_profile(profiles: Sequence[Size], size: Size) -> int:
    """Find the profile that is tuned for the nearest size."""
    return min(
        (profile.num_padded_tokens, place)
        for place, profile in enumerate(profiles)
        if profile.holds(size.num_prompts, size.num_tokens)
    )[1]
