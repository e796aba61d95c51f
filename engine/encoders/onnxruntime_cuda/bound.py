"""Runs the encoder graph on buffers that are bound once, each size as a whole."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue, RunOptions

from engine.encoders.encoder import Tower
from engine.encoders.graph_inputs import GraphInputs, pack_into
from engine.encoders.timing import measure_ready
from engine.errors import EncodingFailed
from engine.query import Prompt, fill
from engine.sizes import Size
from engine.untyped import Untyped

Device = Literal["cuda", "cpu"]


class BoundEncoder:
    """Holds a session on one device, the item table `[N, 64]` and the buffers of each size there.

    Every run is on one thread of its own: ONNX Runtime keeps CUDA graphs for the thread that
    captured them, and would capture them again for another one.
    """

    def __init__(
        self,
        session: Untyped,
        sizes: Sequence[Size],
        item_table: NDArray[np.float32],
        device: Device,
    ) -> None:
        self.sizes = sizes
        vector_dim: int = session.get_outputs()[0].shape[1]
        table = OrtValue.ortvalue_from_numpy(np.ascontiguousarray(item_table), device)
        self._bound = {
            size: BoundSize(session, size, table, vector_dim, graph_id)
            for graph_id, size in enumerate(sizes, start=1)
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        return self._thread.submit(self._bound[size].run, prompts, tower).result()

    def warm_up(self) -> Mapping[Size, float]:
        """Run each size, which captures its CUDA graph where there is a GPU, and time the next."""
        measured_ms = {}
        for size in self.sizes:
            run = partial(self.encode, fill(size), size, "user_vector")
            run()
            measured_ms[size] = measure_ready(size, run)
        return measured_ms

    def close(self) -> None:
        self._thread.shutdown()
        self._bound = {}


class BoundSize:
    """Inputs and outputs of one size, at the same addresses in every run, as CUDA graphs need."""

    def __init__(
        self, session: Untyped, size: Size, table: Untyped, vector_dim: int, graph_id: int
    ) -> None:
        self._session = session
        self._size = size
        self._staging = GraphInputs.of_size(size)
        allocate, device = OrtValue.ortvalue_from_shape_and_type, table.device_name()
        self._inputs = {
            name: allocate(array.shape, np.int64, device)
            for name, array in self._staging._asdict().items()
        }
        vectors_shape = (size.num_prompts, vector_dim)
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
        """Encode no more prompts than the size holds into `[B, D]`.

        Raises:
            EncodingFailed: with the size and ONNX Runtime's words.
        """
        try:
            self._copy_in(prompts)
            self._session.run_with_iobinding(self._binding, self._options)
            self._binding.synchronize_outputs()
            vectors: NDArray[np.float32] = self._outputs[tower].numpy()
        except Exception as error:
            raise EncodingFailed(f"ONNX Runtime could not run {self._size}: {error}") from error
        return vectors[: len(prompts)].copy()

    def _copy_in(self, prompts: Sequence[Prompt]) -> None:
        pack_into(self._staging, prompts)
        for name, staged in self._staging._asdict().items():
            self._inputs[name].update_inplace(staged)
        self._binding.synchronize_inputs()
