"""Small encoder-like graphs, rewritten with the int16 operators and compared with themselves."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from export.int16 import use_int16_operators
from support.operator_models import run

K, N = 128, 64
WEIGHTS = {
    "norm": (K,),
    "w": (K, N),
    "w2": (K, N),
    "square": (K, K),
    "bias": (N,),
    "odd_depth": (96, N),
    "odd_width": (K, 48),
    "stack": (64, K, N),
    "mask": (5, 5),
}
INPUTS = {"x": (2, 5, K), "r": (2, 5, N), "g": (2, 5, K), "u": (2, 5, K), "odd": (2, 5, 96)}


def parse(text: str) -> onnx.ModelProto:
    """Make `inputs => outputs { nodes }`; names of `INPUTS` and `WEIGHTS` have known shapes."""
    signature, body = text.split("{")
    inputs, outputs = (part.replace(",", " ").split() for part in signature.split("=>"))
    arguments = ", ".join(f"float[B, T, {INPUTS[name][-1]}] {name}" for name in inputs)
    results = ", ".join(f"float[B, T, D_{name}] {name}" for name in outputs)
    graph = parser.parse_graph(f"encoder ({arguments}) => ({results}) {{{body}")
    used = {name for node in graph.node for name in node.input}
    rng = np.random.default_rng(5)
    for name, shape in WEIGHTS.items():
        if name in used:
            array = rng.standard_normal(shape, np.float32)
            graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def rewritten(text: str) -> list[str]:
    """Rewrite, see that the graph stays sound and computes the same, and list its operators."""
    original = parse(text)
    model = parse(text)
    use_int16_operators(model)
    onnx.checker.check_model(model)
    rng = np.random.default_rng(6)
    names = [value.name for value in model.graph.input]
    feed = {name: rng.standard_normal(INPUTS[name], np.float32) for name in names}
    for found, expected in zip(run(model, feed), run(original, feed), strict=True):
        assert_close(found, expected)
    return sorted(node.op_type for node in model.graph.node)


def assert_close(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
