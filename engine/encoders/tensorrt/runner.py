"""A plan's forwards at fixed sizes: one execution context and one CUDA graph for each."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import Bucket
from engine.encoders.encoder import Untyped
from engine.encoders.graph_inputs import PackedPrompts
from engine.encoders.tensorrt.library import Library
from engine.errors import EncodingFailed, GpuFailed, PlanError
from engine.gpu import Gpu
from engine.sizes import sizes_within


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
        contiguous = np.ascontiguousarray(item_table)
        gpu.upload(self.addresses["item_table"], contiguous)
        scratch_bytes: int = engine.device_memory_size_v2
        self._scratch = gpu.allocate(max(1, scratch_bytes)), scratch_bytes
        self.contexts: list[Untyped] = []
        self._graphs: list[Untyped] = [None] * len(sizes)
        with gpu.settled():
            for size in sizes:
                self.contexts.append(library.make_context(engine))
                profile = _find_profile(profiles, size)
                if not self._bind(self.contexts[-1], profile, size, item_table.shape):
                    # None outlives the memory that it was given.
                    self.contexts.clear()
                    raise self._refusal(size)

    def upload(self, inputs: PackedPrompts) -> None:
        """Queue the copies of a size's inputs from pinned memory."""
        for name, array in inputs._asdict().items():
            self._gpu.upload(self.addresses[name], array)

    def make_ready(self, place: int) -> None:
        """Run a size, which makes its kernels ready, record its CUDA graph, and run that."""
        with self._gpu.settled():
            self._run(place)
        if not self._captures_itself:
            self._graphs[place] = self._gpu.capture(lambda: self._run(place))
        with self._gpu.settled():
            self.queue(place)

    def queue(self, place: int) -> None:
        """Queue the forward of a size on the stream."""
        if self._graphs[place] is None:
            self._run(place)
        else:
            self._gpu.launch(self._graphs[place])

    def close(self) -> None:
        """Let go of the contexts, once nothing runs any more."""
        with suppress(GpuFailed):
            self._gpu.synchronize()
        self._graphs, self.contexts = [], []

    def _run(self, place: int) -> None:
        if not self.contexts[place].execute_async_v3(self._gpu.stream):
            size = self.sizes[place]
            raise EncodingFailed(
                f"TensorRT could not run {size.max_batch_size} prompts of {size.max_tokens} tokens;"
                " the server's log has its words"
            )

    def _bind(
        self, context: Untyped, profile: int, size: Bucket, table_shape: tuple[int, ...]
    ) -> bool:
        """Fix profile, memory, shapes and addresses; tell whether there is one that takes them."""
        if context is None or not context.set_optimization_profile_async(profile, self._gpu.stream):
            return False
        context.set_device_memory(*self._scratch)
        shapes = {
            "input_ids": (size.max_batch_size, size.max_tokens),
            "slot_ids": (size.max_batch_size, size.max_tokens),
            "readout_position": (size.max_batch_size,),
            "item_table": table_shape,
        }
        takes_shapes = [context.set_input_shape(name, shape) for name, shape in shapes.items()]
        bound = [context.set_tensor_address(name, at) for name, at in self.addresses.items()]
        return all([*takes_shapes, *bound])

    def _refusal(self, size: Bucket) -> PlanError:
        return PlanError(
            f"TensorRT cannot make {size.max_batch_size} prompts of {size.max_tokens} tokens ready,"
            f" its words are above; the GPU has {self._gpu.free_bytes / 1e6:.0f} MB free: if they"
            " are too few, stop what else uses it, or build with a smaller --profile"
        )


def _find_profile(profiles: Sequence[Bucket], size: Bucket) -> int:
    """Find the profile that is tuned for the nearest size."""
    return min(
        (profile.max_batch_size * profile.max_tokens, place)
        for place, profile in enumerate(profiles)
        if profile.max_batch_size >= size.max_batch_size and profile.max_tokens >= size.max_tokens
    )[1]
