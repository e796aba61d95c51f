"""Runs the encoder graph on buffers that are bound once, each bucket at its full size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue, RunOptions

from engine.bundle.manifest import Bucket
from engine.encoders.encoder import Tower, Untyped
from engine.encoders.graph_inputs import PackedPrompts, pack_into
from engine.errors import EncodingFailed
from engine.request import Prompt
from engine.sizes import assign, fill

Device = Literal["cuda", "cpu"]


class BoundEncoder:
    """Holds a session on one device, the item table `[N, 64]` and the buffers of each bucket there.

    Every run is on one thread of its own: ONNX Runtime keeps CUDA graphs for the thread that
    captured them, and would capture them again for another one.
    """

    def __init__(
        self,
        session: Untyped,
        buckets: Sequence[Bucket],
        item_table: NDArray[np.float32],
        device: Device,
    ) -> None:
        self._buckets = buckets
        self._vector_dim: int = session.get_outputs()[0].shape[1]
        table = OrtValue.ortvalue_from_numpy(np.ascontiguousarray(item_table), device)
        self._bound = [
            BoundBucket(session, bucket, table, graph_id)
            for graph_id, bucket in enumerate(buckets, start=1)
        ]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        vectors = np.empty((len(prompts), self._vector_dim), np.float32)
        for place, part in assign(prompts, self._buckets):
            run = self._bound[place].run
            vectors[part] = self._thread.submit(run, prompts[part], tower).result()
        return vectors

    def warm_up(self) -> None:
        """Run each bucket, which captures its CUDA graph where there is a GPU."""
        for bucket in self._buckets:
            self.encode(fill(bucket), "user_vector")

    def close(self) -> None:
        self._thread.shutdown()
        self._bound = []


class BoundBucket:
    """Inputs and outputs of one size, at the same addresses in every run, as CUDA graphs need."""

    def __init__(self, session: Untyped, bucket: Bucket, table: Untyped, graph_id: int) -> None:
        self._session = session
        self._bucket = bucket
        batch, tokens = bucket.max_batch_size, bucket.max_tokens
        shapes = {
            "input_ids": (batch, tokens),
            "slot_ids": (batch, tokens),
            "readout_position": (batch,),
        }
        self._staging = PackedPrompts(
            **{name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
        )
        allocate, device = OrtValue.ortvalue_from_shape_and_type, table.device_name()
        self._inputs = {name: allocate(shape, np.int64, device) for name, shape in shapes.items()}
        vectors_shape = (batch, session.get_outputs()[0].shape[1])
        towers = get_args(Tower)
        self._outputs = {tower: allocate(vectors_shape, np.float32, device) for tower in towers}
        self._binding = session.io_binding()
        for name, value in {**self._inputs, "item_table": table}.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = RunOptions()
        # Its CUDA graph's number; 0 is ONNX Runtime's own, and -1 means none.
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def run(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        """Encode no more prompts than the bucket holds into `[B, D]`.

        Raises:
            EncodingFailed: with the size and ONNX Runtime's words.
        """
        try:
            self._copy_in(prompts)
            self._session.run_with_iobinding(self._binding, self._options)
            self._binding.synchronize_outputs()
            vectors: NDArray[np.float32] = self._outputs[tower].numpy()
        except Exception as error:
            raise EncodingFailed(
                f"ONNX Runtime could not run {self._bucket.max_batch_size} prompts of"
                f" {self._bucket.max_tokens} tokens: {error}"
            ) from error
        return vectors[: len(prompts)].copy()

    def _copy_in(self, prompts: Sequence[Prompt]) -> None:
        pack_into(self._staging, prompts)
        for name, staged in self._staging._asdict().items():
            self._inputs[name].update_inplace(staged)
        self._binding.synchronize_inputs()
