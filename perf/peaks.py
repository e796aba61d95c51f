"""What the machine can do at best, measured: the roof over every other figure."""

from collections.abc import Callable

import onnx
import onnxruntime
import torch
from onnx import helper

from export.fused_ops import FUSED_OPSET
from perf.timing import Timed, best_ms

MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
READ_BYTES = 1 << 30


def matrix_peak_gflops(device: str, dtype: torch.dtype) -> float:
    """Multiply square matrices on all threads of the CPU or on the GPU.

    PyTorch multiplies, and for fp32 on the CPU ONNX Runtime as well: the faster one counts.
    """
    size = MATRIX_SIZES[device]
    left, right = torch.rand(2, size, size).to(device, dtype)
    seconds = _best_seconds(device, lambda: left @ right)
    if device == "cpu" and dtype == torch.float32:
        session = _matrix_product()
        feed = {"left": left.numpy(), "right": right.numpy()}
        seconds = min(seconds, _best_seconds(device, lambda: session.run(None, feed)))
    return 2 * size**3 / seconds / 1e9


def read_peak_gb_per_s(device: str = "cpu") -> float:
    """Sum an array much larger than any cache, on all threads of the CPU or on the GPU."""
    array = torch.ones(READ_BYTES // 4, device=device)
    return READ_BYTES / _best_seconds(device, array.sum) / 1e9


def _best_seconds(device: str, call: Callable[[], object]) -> float:
    def wait_for_it() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return best_ms(Timed(wait_for_it, lambda _: None)) / 1e3


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
