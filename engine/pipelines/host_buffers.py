"""The host's side of a micro-batch under way: memory that the GPU copies from and to by itself."""

import numpy as np
from numpy.typing import NDArray

from engine.encoders.graph_inputs import GraphInputs
from engine.encoders.tensorrt.runner import PlanRunner
from engine.gpu import Gpu
from engine.ranking.cuda_topk import CudaTopK
from engine.sizes import Size


class HostBuffers:
    """Belongs to one call at a time, until that has read its results."""

    def __init__(self, gpu: Gpu, runner: PlanRunner, topk: CudaTopK | None) -> None:
        num_ids, max_prompts = runner.max_padded_tokens, runner.max_prompts
        self._staging = gpu.allocate_pinned((2 * num_ids + max_prompts,), np.int64)
        self.vectors: NDArray[np.float32] = gpu.allocate_pinned(
            (max_prompts, runner.vector_dim), np.float32
        )
        self.topk = None if topk is None else topk.make_buffers()
        self.started, self.encoded, self.done = (gpu.make_event() for _ in range(3))

    def inputs(self, size: Size) -> GraphInputs:
        """Give the arrays in which a size's prompts are laid out."""
        batch, tokens = size.num_prompts, size.num_tokens
        ids, slots, readouts = np.split(
            self._staging[: 2 * batch * tokens + batch], [batch * tokens, 2 * batch * tokens]
        )
        return GraphInputs(ids.reshape(batch, tokens), slots.reshape(batch, tokens), readouts)
