"""A plan's forwards at fixed sizes: one execution context and one CUDA graph for each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.backends.buckets import sizes_within
from engine.backends.gpu import Gpu
from engine.backends.packing import PackedPrompts
from engine.backends.tensorrt.library import Library, Untyped
from engine.errors import EncodingFailed, PlanError
from engine.manifest import Bucket


class Forwards:
    """Runs the sizes one after another, on one stream, so that they share all their memory.

    `addresses` are those of the graph's inputs and outputs on the GPU, by name.
    """

    def __init__(
        self,
        library: Library,
        engine: Untyped,
        gpu: Gpu,
        profiles: Sequence[Bucket],
        item_table: NDArray[np.float32],
    ) -> None:
        self._gpu = gpu
        self.sizes = sizes = sizes_within(profiles)
        self._captures_itself = library.captures_graphs
        self.vector_dim: int = engine.get_tensor_shape("user_vector")[1]
        self.max_batch_size = max(size.max_batch_size for size in sizes)
        self.max_ids = max(size.max_batch_size * size.max_tokens for size in sizes)
        vectors_bytes = self.max_batch_size * self.vector_dim * 4
        self.addresses = {
            "input_ids": gpu.allocate(self.max_ids * 8),
            "slot_ids": gpu.allocate(self.max_ids * 8),
            "readout_position": gpu.allocate(self.max_batch_size * 8),
            "item_table": gpu.allocate(item_table.nbytes),
            "user_vector": gpu.allocate(vectors_bytes),
            "item_vector": gpu.allocate(vectors_bytes),
        }
        gpu.upload(self.addresses["item_table"], np.ascontiguousarray(item_table))
        scratch_bytes: int = engine.device_memory_size_v2
        scratch = gpu.allocate(max(1, scratch_bytes))
        self._contexts = []
        for size in sizes:
            profile = _find_profile(profiles, size)
            context = library.make_context(engine)
            if context is None or not context.set_optimization_profile_async(profile, gpu.stream):
                raise self._refusal(size)
            context.set_device_memory(scratch, scratch_bytes)
            self._bind(context, size, item_table.shape)
            self._contexts.append(context)
        self._graphs: list[Untyped] = [None] * len(sizes)
        gpu.synchronize()

    def upload(self, inputs: PackedPrompts) -> None:
        """Queue the copies of a size's inputs from pinned memory."""
        for name, array in inputs._asdict().items():
            self._gpu.upload(self.addresses[name], array)

    def capture(self, place: int) -> None:
        """Run a size, so that its kernels are ready, and then record its CUDA graph."""
        self._run(place)
        self._gpu.synchronize()
        if self._captures_itself:
            self._run(place)
            self._gpu.synchronize()
        else:
            self._graphs[place] = self._gpu.capture(lambda: self._run(place))

    def queue(self, place: int) -> None:
        """Queue the forward of a size on the stream."""
        if self._graphs[place] is None:
            self._run(place)
        else:
            self._gpu.launch(self._graphs[place])

    def close(self) -> None:
        self._graphs, self._contexts = [], []

    def _run(self, place: int) -> None:
        if not self._contexts[place].execute_async_v3(self._gpu.stream):
            size = self.sizes[place]
            raise EncodingFailed(
                f"TensorRT could not run {size.max_batch_size} prompts of {size.max_tokens} tokens"
            )

    def _bind(self, context: Untyped, size: Bucket, table_shape: tuple[int, ...]) -> None:
        shapes = {
            "input_ids": (size.max_batch_size, size.max_tokens),
            "slot_ids": (size.max_batch_size, size.max_tokens),
            "readout_position": (size.max_batch_size,),
            "item_table": table_shape,
        }
        for name, shape in shapes.items():
            context.set_input_shape(name, shape)
        for name, address in self.addresses.items():
            context.set_tensor_address(name, address)

    def _refusal(self, size: Bucket) -> PlanError:
        return PlanError(
            f"the GPU has {self._gpu.free_bytes / 1e6:.0f} MB free, too little to run"
            f" {size.max_batch_size} prompts of {size.max_tokens} tokens; stop what else uses it,"
            " or build with a smaller --profile"
        )


def _find_profile(profiles: Sequence[Bucket], size: Bucket) -> int:
    """Find the profile that is tuned for the nearest size."""
    return min(
        (profile.max_batch_size * profile.max_tokens, place)
        for place, profile in enumerate(profiles)
        if profile.max_batch_size >= size.max_batch_size and profile.max_tokens >= size.max_tokens
    )[1]
