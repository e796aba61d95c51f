"""Rewrites the fp16 encoder graph with products of FLOAT8E4M3FN, in the form that TensorRT reads.

What a projection of the decoder's layers reads is rounded with one scale, found by calibration; its
weights are stored in fp8, with a scale per output channel. Both are dequantized to fp32, where the
product is taken: TensorRT then multiplies the fp8 values themselves and scales their sum in fp32.
With scales in fp16 that sum would be in fp16 too, which it overflows.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from engine.bundle.manifest import GRAPH_FILE
from engine.encoders.graph_inputs import pack
from engine.encoders.tensorrt.compiler import find_targets
from engine.encoders.tensorrt.library import load_library
from engine.errors import PlanError
from engine.sizes import Size
from export.calibration import Calibration
from export.onnx_export import save_graph
from export.plan import PlanOptions

MAX_FP8 = 448
"""The largest value of e4m3, which stands for all that are larger."""
FIRST_CAPABILITY = 8.9
DEFAULT_TARGETS = ("8.9", "12.0")

_CALIBRATED_FILE = "calibrated.onnx"


def choose_targets(options: PlanOptions) -> PlanOptions:
    """Give `options` for GPUs that multiply fp8 only.

    Raises:
        BackendUnavailable: the library is missing.
        PlanError: a target has no fp8.
    """
    library = load_library(options.library)
    if library.targets and not options.targets:
        return replace(options, targets=DEFAULT_TARGETS)
    targets = find_targets(library, options.targets)
    lacking = [target for target in targets if float(target) < FIRST_CAPABILITY]
    if lacking:
        able = [target for target in library.targets if float(target) >= FIRST_CAPABILITY]
        remedy = f"give --target {' or '.join(able)}" if able else "build on a newer GPU"
        raise PlanError(
            f"compute capability {', '.join(lacking)} has no fp8, which came with"
            f" {FIRST_CAPABILITY}; {remedy}, or take --precision fp16"
        )
    return options


def use_fp8(folder: Path, calibration: Calibration) -> None:
    """Rewrite the calibrated fp16 graph in `folder`."""
    largest = calibrate(folder, calibration)
    model = onnx.load(folder / GRAPH_FILE)
    use_fp8_products(model, largest)
    save_graph(model, folder)


def calibrate(folder: Path, calibration: Calibration) -> dict[str, float]:
    """Give the largest magnitude of each value that a projection reads, by its name."""
    model = onnx.load(folder / GRAPH_FILE, load_external_data=False)
    halves = _find_halves(model.graph)
    sources = [node.input[0] for node in model.graph.node if _is_product(node, halves)]
    sources = list(dict.fromkeys(sources))
    for source in sources:
        model.graph.node.extend(_measure(source))
    outputs = [f"{source}.largest" for source in sources]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs
    )
    onnx.save(model, folder / _CALIBRATED_FILE)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / _CALIBRATED_FILE, options, providers=["CPUExecutionProvider"]
    )
    (folder / _CALIBRATED_FILE).unlink()
    # One at a time: what stands in padding is read by nothing and must not widen a scale.
    feeds = [
        {**pack([prompt], Size(1, len(prompt)))._asdict(), "item_table": calibration.item_table}
        for prompt in calibration.prompts
    ]
    found = [session.run(outputs, feed) for feed in feeds]
    return dict(zip(sources, np.max(found, axis=0).tolist(), strict=True))


def use_fp8_products(model: onnx.ModelProto, largest: Mapping[str, float]) -> None:
    """Replace the products with constant fp16 weights, in place.

    `largest` is the largest magnitude of each value that one of them reads, by its name.
    """
    graph = model.graph
    halves = _find_halves(graph)
    nodes: list[NodeProto] = []
    stored: dict[str, TensorProto] = {}
    for node in graph.node:
        if not _is_product(node, halves):
            nodes.append(node)
            continue
        source, weight = node.input
        if f"{source}.scale" not in stored:
            scale = _scale(torch.tensor(largest[source])).numpy()
            stored[f"{source}.scale"] = numpy_helper.from_array(scale, f"{source}.scale")
            nodes.extend(_round(source))
        if f"{weight}.scales" not in stored:
            values, scales = quantize(numpy_helper.to_array(halves[weight]))
            stored[f"{weight}.fp8"] = _store(values, f"{weight}.fp8")
            stored[f"{weight}.scales"] = numpy_helper.from_array(scales, f"{weight}.scales")
            nodes.append(_dequantize(weight, f"{weight}.scales"))
        nodes.extend(_multiply(node))
    used = {name for node in nodes for name in node.input}
    weights = [each for each in [*graph.initializer, *stored.values()] if each.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def quantize(weight: NDArray[np.float16]) -> tuple[Tensor, NDArray[np.float32]]:
    """Give the values `[K, N]` in e4m3 and the scales `[N]` of a weight `[K, N]`."""
    wide = torch.from_numpy(weight.astype(np.float32))
    scales = _scale(wide.abs().amax(dim=0))
    return (wide / scales).to(torch.float8_e4m3fn), scales.numpy()


def _scale(largest: Tensor) -> Tensor:
    """Make the largest magnitude the largest value; for zeros alone any scale will do."""
    return torch.where(largest > 0, largest / MAX_FP8, 1.0)


def _find_halves(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    half = TensorProto.FLOAT16
    return {weight.name: weight for weight in graph.initializer if weight.data_type == half}


def _is_product(node: NodeProto, halves: Collection[str]) -> bool:
    """Tell a projection of the decoder's layers: those of the heads are in fp32."""
    return node.op_type == "MatMul" and node.input[1] in halves


def _measure(source: str) -> Iterator[NodeProto]:
    wide, magnitude = f"{source}.measured", f"{source}.magnitude"
    yield helper.make_node("Cast", [source], [wide], to=TensorProto.FLOAT)
    yield helper.make_node("Abs", [wide], [magnitude])
    yield helper.make_node("ReduceMax", [magnitude], [f"{source}.largest"], keepdims=0)


def _round(source: str) -> Iterator[NodeProto]:
    wide, rounded, scale = f"{source}.wide", f"{source}.fp8", f"{source}.scale"
    yield helper.make_node("Cast", [source], [wide], to=TensorProto.FLOAT)
    fp8 = TensorProto.FLOAT8E4M3FN
    yield helper.make_node("QuantizeLinear", [wide, scale], [rounded], output_dtype=fp8, saturate=1)
    yield _dequantize(source, scale)


def _dequantize(name: str, scale: str) -> NodeProto:
    """Multiply by one scale, or by one for each element along the last axis."""
    operands = [f"{name}.fp8", scale]
    return helper.make_node("DequantizeLinear", operands, [f"{name}.fp32"], axis=-1)


def _multiply(product: NodeProto) -> Iterator[NodeProto]:
    source, weight, output = *product.input, product.output[0]
    operands = [f"{source}.fp32", f"{weight}.fp32"]
    yield helper.make_node("MatMul", operands, [f"{output}.fp32"], product.name)
    yield helper.make_node("Cast", [f"{output}.fp32"], [output], to=TensorProto.FLOAT16)


def _store(values: Tensor, name: str) -> TensorProto:
    content = values.view(torch.uint8).numpy().tobytes()
    kind = TensorProto.FLOAT8E4M3FN
    return helper.make_tensor(name, kind, values.shape, content, raw=True)
