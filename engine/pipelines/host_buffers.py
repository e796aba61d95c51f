"""The host's side of a micro-batch under way: memory that the GPU copies from and to by itself."""

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import Bucket
from engine.encoders.graph_inputs import PackedPrompts
from engine.encoders.tensorrt.runner import Forwards
from engine.gpu import Gpu
from engine.ranking.cuda_topk import GpuTopK


class Lane:
    """Belongs to one call at a time, until that has read its results."""

    def __init__(self, gpu: Gpu, forwards: Forwards, topk: GpuTopK | None) -> None:
        num_ids, max_batch = forwards.max_ids, forwards.max_batch_size
        self._staging = gpu.allocate_pinned((2 * num_ids + max_batch,), np.int64)
        self.vectors: NDArray[np.float32] = gpu.allocate_pinned(
            (max_batch, forwards.vector_dim), np.float32
        )
        if topk is not None:
            self.search = topk.make_search()
        self.started, self.encoded, self.done = (gpu.make_event() for _ in range(3))

    def inputs(self, size: Bucket) -> PackedPrompts:
        """Give the arrays in which a size's prompts are laid out."""
        batch, tokens = size.max_batch_size, size.max_tokens
        ids, slots, readouts = np.split(
            self._staging[: 2 * batch * tokens + batch], [batch * tokens, 2 * batch * tokens]
        )
        return PackedPrompts(ids.reshape(batch, tokens), slots.reshape(batch, tokens), readouts)
