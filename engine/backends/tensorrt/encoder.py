"""Runs a plan: one execution context a bucket, buffers allocated once, one stream."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.backends import Tower
from engine.backends.buckets import assign, fill
from engine.backends.packing import PackedPrompts, pack
from engine.backends.tensorrt.cuda import Gpu
from engine.backends.tensorrt.library import Library, Untyped, load_library, make_logger
from engine.errors import EncodingFailed, PlanError
from engine.manifest import Plan
from engine.request import Prompt

VECTOR_DIM = 128
_LOG = logging.getLogger(__name__)


class TensorRTEncoder:
    """Holds a plan on the GPU, and the collaborative item table `[N, 64]` float32."""

    def __init__(self, bundle: Path, plan: Plan, item_table: NDArray[np.float32]) -> None:
        library = load_library(plan.library)
        self._plan = plan
        self._gpu = Gpu()
        check_plan(plan, library.version, self._gpu.compute_capability, bundle)
        free_bytes = self._gpu.free_bytes
        self._engine = _load(library, bundle / plan.file, self._gpu)
        self._contexts = [self._make_context(library, place) for place in range(len(plan.buckets))]
        shapes = [(b.max_batch_size, b.max_tokens) for b in plan.buckets]
        max_batch, max_ids = max(b for b, _ in shapes), max(b * t for b, t in shapes)
        allocate = self._gpu.allocate
        self._addresses = {
            "input_ids": allocate(max_ids * 8),
            "slot_ids": allocate(max_ids * 8),
            "readout_position": allocate(max_batch * 8),
            "item_table": allocate(item_table.nbytes),
            "user_vector": allocate(max_batch * VECTOR_DIM * 4),
            "item_vector": allocate(max_batch * VECTOR_DIM * 4),
        }
        self._staging = self._gpu.allocate_pinned((2 * max_ids + max_batch,), np.int64)
        self._vectors = self._gpu.allocate_pinned((max_batch, VECTOR_DIM), np.float32)
        self._item_shape = item_table.shape
        self._gpu.upload(self._addresses["item_table"], np.ascontiguousarray(item_table))
        self._gpu.synchronize()
        used_bytes = free_bytes - self._gpu.free_bytes
        _LOG.info("%s: %.0f MB of GPU memory", plan.file, used_bytes / 1e6)

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        vectors = np.empty((len(prompts), VECTOR_DIM), np.float32)
        for bucket, part in assign(prompts, self._plan.buckets):
            vectors[part] = self._run(self._contexts[bucket], pack(prompts[part]), tower)
        return vectors

    def warm_up(self) -> None:
        """Run each bucket at its full size, for which the library then has its kernels ready."""
        for bucket, context in zip(self._plan.buckets, self._contexts, strict=True):
            self._run(context, pack(fill(bucket)), "user_vector")

    def close(self) -> None:
        self._contexts, self._engine = [], None
        self._gpu.close()

    def _make_context(self, library: Library, place: int) -> Untyped:
        context = library.make_context(self._engine)
        if context is None or not context.set_optimization_profile_async(place, self._gpu.stream):
            bucket = self._plan.buckets[place]
            raise PlanError(
                f"the GPU has {self._gpu.free_bytes / 1e6:.0f} MB free, too little to run"
                f" {bucket.max_batch_size} prompts of {bucket.max_tokens} tokens; stop what else"
                " uses it, or build with a smaller --profile"
            )
        self._gpu.synchronize()
        return context

    def _run(self, context: Untyped, packed: PackedPrompts, tower: Tower) -> NDArray[np.float32]:
        start = 0
        for name, array in packed._asdict().items():
            staged = self._staging[start : start + array.size]
            staged[:] = array.ravel()
            start += array.size
            self._gpu.upload(self._addresses[name], staged)
            context.set_input_shape(name, array.shape)
        context.set_input_shape("item_table", self._item_shape)
        for name, address in self._addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(self._gpu.stream):
            raise EncodingFailed("TensorRT could not run the plan")
        found = self._vectors[: len(packed.readout_position)]
        self._gpu.download(found, self._addresses[tower])
        self._gpu.synchronize()
        return found.astype(np.float32)


def check_plan(plan: Plan, library_version: str, compute_capability: str, bundle: Path) -> None:
    """Refuse a plan of another library version or for other GPUs, with the command that mends it.

    Raises:
        PlanError: saying what is there and what is needed.
    """
    command = f"python -m engine check {bundle} --rebuild"
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


def _load(library: Library, path: Path, gpu: Gpu) -> Untyped:
    logger = make_logger(library)
    engine = library.module.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise PlanError(
            f"{library.name} {library.version} cannot load {path} on a GPU of compute capability"
            f" {gpu.compute_capability}: {'; '.join(logger.errors)}; compile it for this one:"
            f" python -m engine check {path.parent} --rebuild --target {gpu.compute_capability}"
        )
    return engine
