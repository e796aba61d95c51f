"""The rewriting of an fp16 graph with products of fp8, on small graphs."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from engine.errors import PlanError
from export import fp8
from export.fp8 import choose_targets, quantize, use_fp8_products
from export.plan import PlanOptions
from export.recipes import RECIPES

K, N = 64, 32
WEIGHTS = {
    "w": ((K, N), np.float16),
    "w2": ((K, N), np.float16),
    "table": ((9, K), np.float16),
    "head": ((K, N), np.float32),
}
LARGEST = {"x": 2.0, "g": 3.0}
EIGHTHS = 8
"""Steps of e4m3 between a power of two and the next."""
SMALLEST_EXPONENT = -6

Array = NDArray[np.float32]


def parse(text: str) -> onnx.ModelProto:
    """Make `inputs => outputs { nodes }`; names of `WEIGHTS` are constants."""
    signature, body = text.split("{")
    inputs, outputs = (part.replace(",", " ").split() for part in signature.split("=>"))
    arguments = ", ".join(f"float16[B, T, {K}] {name}" for name in inputs)
    results = ", ".join(f"float16[B, T, D_{name}] {name}" for name in outputs)
    graph = parser.parse_graph(f"encoder ({arguments}) => ({results}) {{{body}")
    used = {name for node in graph.node for name in node.input}
    rng = np.random.default_rng(5)
    for name, (shape, dtype) in WEIGHTS.items():
        if name in used:
            array = rng.standard_normal(shape).astype(dtype)
            graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def rewrite(text: str) -> onnx.ModelProto:
    model = parse(text)
    use_fp8_products(model, LARGEST)
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def stored(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {weight.name: weight for weight in model.graph.initializer}


def run(model: onnx.ModelProto, x: NDArray[np.float16]) -> NDArray[np.float16]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result: NDArray[np.float16] = session.run(None, {"x": x})[0]
    return result


def to_e4m3(x: Array) -> Array:
    """Round to the nearest value of e4m3 by its definition, ties to the even one."""
    exponent = np.maximum(np.floor(np.log2(np.abs(x) + 1e-30)), SMALLEST_EXPONENT)
    step = np.exp2(exponent) / EIGHTHS
    return np.clip(np.rint(x / step) * step, -448, 448).astype(np.float32)


def test_a_product_takes_fp8_on_both_sides_and_gives_fp16_again() -> None:
    model = rewrite("x => y { y = MatMul(x, w) }")
    expected = {"Cast": 2, "QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1}
    assert operators(model) == expected
    kinds = {name: tensor.data_type for name, tensor in stored(model).items()}
    assert kinds == {
        "x.scale": TensorProto.FLOAT,
        "w.fp8": TensorProto.FLOAT8E4M3FN,
        "w.scales": TensorProto.FLOAT,
    }
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in inferred}
    assert types["x.fp8"] == TensorProto.FLOAT8E4M3FN
    assert {types[name] for name in ("x.fp32", "w.fp32", "y.fp32")} == {TensorProto.FLOAT}


def test_what_two_products_read_is_rounded_once() -> None:
    counts = operators(rewrite("x => y, z { y = MatMul(x, w) z = MatMul(x, w2) }"))
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"], counts["MatMul"]) == (1, 3, 2)


def test_two_products_may_share_their_weights() -> None:
    counts = operators(rewrite("x, g => y, z { y = MatMul(x, w) z = MatMul(g, w) }"))
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"], counts["MatMul"]) == (2, 3, 2)


@pytest.mark.parametrize(
    "body",
    [
        "c = Cast <to = 1> (x) p = MatMul(c, head) y = Cast <to = 10> (p)",
        "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, t)",
        "i = Constant <value_ints = [3, 1]> () e = Gather(table, i) y = Add(x, e)",
    ],
    ids=["fp32 head", "two computed matrices", "embedding"],
)
def test_what_is_no_projection_stays(body: str) -> None:
    text = f"x => y {{ {body} }}"
    model = parse(text)
    use_fp8_products(model, {})
    assert model.SerializeToString() == parse(text).SerializeToString()


def test_weights_that_something_else_reads_stay_as_well() -> None:
    model = rewrite("x => y, z { y = MatMul(x, w) z = Add(y, w) }")
    assert stored(model).keys() == {"x.scale", "w", "w.fp8", "w.scales"}


def test_the_largest_magnitude_becomes_the_largest_value() -> None:
    weights = stored(rewrite("g => y { y = MatMul(g, w) }"))
    assert numpy_helper.to_array(weights["g.scale"]) == np.float32(LARGEST["g"] / 448)
    original = numpy_helper.to_array(stored(parse("g => y { y = MatMul(g, w) }"))["w"])
    scales = numpy_helper.to_array(weights["w.scales"])  # [N]
    np.testing.assert_allclose(scales * 448, np.abs(original).max(axis=0), rtol=1e-6)


def test_stored_weights_are_the_nearest_values() -> None:
    weights = stored(rewrite("x => y { y = MatMul(x, w) }"))
    original = numpy_helper.to_array(stored(parse("x => y { y = MatMul(x, w) }"))["w"])
    scales = numpy_helper.to_array(weights["w.scales"])  # [N]
    scaled = original.astype(np.float32) / scales
    found = numpy_helper.to_array(weights["w.fp8"]).astype(np.float32)  # [K, N]
    np.testing.assert_array_equal(found, to_e4m3(scaled))
    in_torch = torch.from_numpy(scaled).to(torch.float8_e4m3fn).view(torch.uint8)
    assert weights["w.fp8"].raw_data == in_torch.numpy().tobytes()


def test_zeros_are_stored_as_zeros() -> None:
    smallest = np.finfo(np.float16).smallest_subnormal
    weight = np.zeros((K, 2), np.float16)
    weight[3, 1] = smallest
    values, scales = quantize(weight)
    assert values.float()[:, 0].count_nonzero() == 0
    assert values.float()[3, 1] == 448
    np.testing.assert_allclose(scales, np.array([1, float(smallest) / 448]))


def test_graph_computes_the_product_of_rounded_values() -> None:
    model = rewrite("x => y { y = MatMul(x, w) }")
    x = np.random.default_rng(6).uniform(-2, 2, (2, 5, K)).astype(np.float16)
    scale = np.float32(LARGEST["x"] / 448)
    original = numpy_helper.to_array(stored(parse("x => y { y = MatMul(x, w) }"))["w"])
    scales = np.abs(original).max(axis=0).astype(np.float32) / 448  # [N]
    expected = (to_e4m3(x / scale) * scale) @ (to_e4m3(original / scales) * scales)
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [2.0, -2.5, 60_000.0])
def test_what_calibration_never_saw_counts_as_the_largest_it_saw(value: float) -> None:
    model = rewrite("x => y { y = MatMul(x, w) }")
    x = np.zeros((1, 2, K), np.float16)
    x[0, 0, 0], x[0, 1, 0] = value, np.copysign(LARGEST["x"], value)
    beyond, largest = run(model, x)[0]
    np.testing.assert_array_equal(beyond, largest)
    assert np.abs(largest).max() > 1


def test_two_machines_may_differ_by_twice_the_angle_of_a_build() -> None:
    angle = np.arccos(RECIPES["fp8"].bars.min_cosine)
    assert RECIPES["fp8"].min_probe_cosine == pytest.approx(np.cos(2 * angle), abs=1e-4)


def test_targets_are_those_with_fp8_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(targets=dict.fromkeys(["8.0", "8.6", "8.9", "12.0", "12.1"]))
    monkeypatch.setattr(fp8, "load_library", lambda _: library)
    assert choose_targets(PlanOptions()) == PlanOptions(targets=("8.9", "12.0"))


@pytest.fixture
def _tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT, which compiles for the GPU of the machine and is told no target."""
    monkeypatch.setattr(fp8, "load_library", lambda _: SimpleNamespace(targets={}))


def give_gpu(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    def find(_: object, targets: Sequence[str]) -> list[str]:
        assert not targets
        return [capability]

    monkeypatch.setattr(fp8, "find_targets", find)


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("capability", ["8.9", "9.0", "10.0", "12.0"])
def test_gpu_with_fp8_is_compiled_for(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    give_gpu(monkeypatch, capability)
    assert choose_targets(PlanOptions()) == PlanOptions()


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6"])
def test_gpu_without_fp8_is_refused(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    give_gpu(monkeypatch, capability)
    with pytest.raises(PlanError, match=rf"{capability} has no fp8, .* 8\.9; build on a newer GPU"):
        choose_targets(PlanOptions())
