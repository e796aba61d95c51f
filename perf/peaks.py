"""What the machine can do at best, measured: the roof over every other figure."""

import time
from collections.abc import Callable

import onnx
import onnxruntime
import torch
from onnx import helper

from export.fused_ops import FUSED_OPSET

NUM_TRIES = 7
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
READ_BYTES = 1 << 30


def matrix_peak_gflops(device: str, dtype: torch.dtype) -> float:
    """Multiply square matrices on all threads of the CPU or on the GPU.

    PyTorch multiplies, and for fp32 on the CPU ONNX Runtime as well: the faster one counts.
    """
    size = MATRIX_SIZES[device]
    left, right = torch.rand(2, size, size).to(device, dtype)

    def multiply() -> None:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = best_seconds(multiply)
    if device == "cpu" and dtype == torch.float32:
        session = _matrix_product()
        feed = {"left": left.numpy(), "right": right.numpy()}
        seconds = min(seconds, best_seconds(lambda: session.run(None, feed)))
    return 2 * size**3 / seconds / 1e9


def read_peak_gb_per_s(device: str = "cpu") -> float:
    """Sum an array much larger than any cache, on all threads of the CPU or on the GPU."""
    array = torch.ones(READ_BYTES // 4, device=device)

    def read() -> None:
        array.sum()
        if device == "cuda":
            torch.cuda.synchronize()

    return READ_BYTES / best_seconds(read) / 1e9


def best_seconds(call: Callable[[], object]) -> float:
    """Give the shortest of several runs, after one that does not count."""
    call()
    times = []
    for _ in range(NUM_TRIES):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def _matrix_product() -> onnxruntime.InferenceSession:
    matrices = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None])
        for name in ("left", "right", "product")
    ]
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    graph = helper.make_graph([node], "peak", matrices[:2], matrices[2:])
    opsets = [helper.make_opsetid("", FUSED_OPSET)]
    model = helper.make_model_gen_version(graph, opset_imports=opsets)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
