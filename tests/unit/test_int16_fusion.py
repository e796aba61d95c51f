"""Norms and gates that are computed with the quantization of their results, on small graphs."""

import pytest
from support.int16_graphs import rewritten

NORM = "n = RMSNormalization <axis = -1, epsilon = 0.01> (x, norm)"


def test_a_norm_that_feeds_only_products_is_quantized_with_them() -> None:
    text = f"x => y, z {{ {NORM} y = MatMul(n, w) z = MatMul(n, w2) }}"
    assert rewritten(text) == ["MatMulBlocks", "MatMulBlocks", "NormalizeBlocks"]


def test_a_norm_that_something_else_reads_stays() -> None:
    text = f"x => y, z {{ {NORM} y = MatMul(n, w) z = Neg(n) }}"
    assert rewritten(text) == ["MatMulBlocks", "Neg", "QuantizeBlocks", "RMSNormalization"]


def test_a_norm_that_a_product_beside_the_blocks_reads_stays() -> None:
    text = f"x => y, z {{ {NORM} y = MatMul(n, w) z = MatMul(n, odd_width) }}"
    assert rewritten(text) == ["MatMul", "MatMulBlocks", "QuantizeBlocks", "RMSNormalization"]


def test_a_norm_that_is_an_output_is_still_given() -> None:
    rewritten(f"x => y, n {{ {NORM} y = MatMul(n, w) }}")


def test_a_norm_without_an_epsilon_takes_that_of_onnx() -> None:
    text = "x => y { n = RMSNormalization (x, norm) y = MatMul(n, w) }"
    assert rewritten(text) == ["MatMulBlocks", "NormalizeBlocks"]


def test_a_norm_over_several_axes_is_no_norm_of_rows() -> None:
    text = "x => y { n = RMSNormalization <axis = 1, epsilon = 0.01> (x, norm) y = MatMul(n, w) }"
    assert rewritten(text) == ["MatMulBlocks", "QuantizeBlocks", "RMSNormalization"]


@pytest.mark.parametrize("silu", ["g, s", "s, g"])
@pytest.mark.parametrize("gated", ["a, u", "u, a"])
def test_a_gate_is_found_in_every_order(silu: str, gated: str) -> None:
    text = f"g, u => y {{ s = Sigmoid(g) a = Mul({silu}) m = Mul({gated}) y = MatMul(m, w) }}"
    assert rewritten(text) == ["GateBlocks", "MatMulBlocks"]


@pytest.mark.parametrize(
    "gate",
    [
        "s = Sigmoid(u) a = Mul(g, s) m = Mul(a, u)",
        "s = Sigmoid(g) a = Add(g, s) m = Mul(a, u)",
        "s = Sigmoid(g) a = Mul(g, s) m = Add(a, u)",
        "s = Tanh(g) a = Mul(g, s) m = Mul(a, u)",
        "s = Sigmoid(g) m = Mul(s, u)",
        "m = Mul(g, u)",
    ],
)
def test_what_is_no_gate_stays(gate: str) -> None:
    operators = rewritten(f"g, u => y {{ {gate} y = MatMul(m, w) }}")
    assert "GateBlocks" not in operators
    assert "QuantizeBlocks" in operators


def test_a_gate_that_something_else_reads_stays() -> None:
    text = "g, u => y, z { s = Sigmoid(g) a = Mul(g, s) m = Mul(a, u) y = MatMul(m, w) z = Neg(m) }"
    assert rewritten(text) == ["MatMulBlocks", "Mul", "Mul", "Neg", "QuantizeBlocks", "Sigmoid"]


def test_what_a_gate_multiplies_may_be_read_elsewhere() -> None:
    text = "g, u => y, a { s = Sigmoid(g) a = Mul(g, s) m = Mul(a, u) y = MatMul(m, w) }"
    assert rewritten(text) == ["GateBlocks", "MatMulBlocks", "Mul", "Sigmoid"]
