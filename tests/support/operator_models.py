"""Small ONNX graphs with the operators of the domain `llmsrec`, and sessions that run them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper

from engine.encoders.cpu import find_operators
from export.int16 import BLOCK, DOMAIN

Feed = Mapping[str, NDArray[Any]]


def node(operator: str, inputs: str, outputs: str, **attributes: float) -> NodeProto:
    """Make a node of the domain; names are separated by spaces."""
    made = helper.make_node(operator, inputs.split(), outputs.split(), domain=DOMAIN)
    made.attribute.extend(helper.make_attribute(*each) for each in attributes.items())
    return made


def model(nodes: Sequence[NodeProto], feed: Feed, outputs: Mapping[str, type]) -> onnx.ModelProto:
    """Make a model that takes arrays like those in `feed`, of any shape."""

    def info(name: str, dtype: object) -> onnx.ValueInfoProto:
        element_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))  # type: ignore[call-overload]
        return helper.make_tensor_value_info(name, element_type, None)

    graph = helper.make_graph(
        nodes,
        "operators",
        [info(name, array.dtype) for name, array in feed.items()],
        [info(name, dtype) for name, dtype in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(made: onnx.ModelProto, num_threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4  # what is refused, is raised as well
    options.register_custom_ops_library(str(find_operators()))
    return onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(made: onnx.ModelProto, feed: Feed, num_threads: int = 1) -> list[NDArray[Any]]:
    outputs: list[NDArray[Any]] = session(made, num_threads).run(None, dict(feed))
    return outputs


def quantize(x: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Give the values and the scales."""
    quantize_blocks = node("QuantizeBlocks", "x", "values scales")
    outputs = {"values": np.int16, "scales": np.float32}
    return run(model([quantize_blocks], {"x": x}, outputs), {"x": x})


def numbers(values: NDArray[np.int16], scales: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give what blocks along the last axis stand for."""
    return values.astype(np.float64) * np.repeat(scales, BLOCK, axis=-1)


def unpacked(values: NDArray[np.int16], scales: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give the weights `[K, N]` that packed ones stand for."""
    num_panels, num_pairs, width, _ = values.shape
    columns = values.transpose(0, 2, 1, 3).reshape(num_panels * width, 2 * num_pairs)  # [N, K]
    return numbers(columns, scales.swapaxes(1, 2).reshape(num_panels * width, -1)).T
