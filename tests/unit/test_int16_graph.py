"""The rewriting of an fp32 graph with the int16 operators, on small graphs."""

import onnx
import pytest
from support.int16_graphs import parse, rewritten

from export.int16 import use_int16_operators

NORM = "n = RMSNormalization <axis = -1, epsilon = 0.01> (x, norm)"
PRODUCT = ["MatMulBlocks", "QuantizeBlocks"]


def weight_names(text: str) -> set[str]:
    model = parse(text)
    use_int16_operators(model)
    return {weight.name for weight in model.graph.initializer}


def test_a_product_becomes_one_of_blocks() -> None:
    assert rewritten("x => y { y = MatMul(x, w) }") == PRODUCT


def test_only_the_weights_in_use_stay() -> None:
    assert weight_names("x => y { y = MatMul(x, w) }") == {"w.values", "w.scales"}
    assert weight_names("x, r => y { p = MatMul(x, w) q = Mul(p, bias) y = Add(q, r) }") == {
        "w.values",
        "w.scales",
        "bias",
    }


@pytest.mark.parametrize("order", ["p, k", "k, p"])
def test_a_residual_is_added_by_the_product(order: str) -> None:
    text = f"x, r => y {{ k = Neg(r) p = MatMul(x, w) y = Add({order}) }}"
    assert rewritten(text) == ["MatMulBlocks", "Neg", "QuantizeBlocks"]


def test_a_residual_that_is_computed_after_the_product_is_added_by_it() -> None:
    text = "x, r => y { p = MatMul(x, w) k = Neg(r) y = Add(p, k) }"
    assert rewritten(text) == ["MatMulBlocks", "Neg", "QuantizeBlocks"]


@pytest.mark.parametrize("order", ["p, bias", "bias, p"])
def test_a_bias_is_no_residual(order: str) -> None:
    assert rewritten(f"x => y {{ p = MatMul(x, w) y = Add({order}) }}") == ["Add", *PRODUCT]


def test_a_bias_that_a_node_gives_is_no_residual() -> None:
    text = "x => y { c = Constant <value_floats = [0.5]> () p = MatMul(x, w) y = Add(p, c) }"
    assert rewritten(text) == ["Add", "Constant", *PRODUCT]


def test_a_product_that_is_read_twice_stays_apart() -> None:
    text = "x, r => y, z { k = Neg(r) p = MatMul(x, w) y = Add(p, k) z = Neg(p) }"
    assert rewritten(text) == ["Add", "MatMulBlocks", "Neg", "Neg", "QuantizeBlocks"]
    text = "x, r => y, z { k = Neg(r) p = MatMul(x, w) y = Add(p, k) z = Add(k, p) }"
    assert rewritten(text) == ["Add", "Add", "MatMulBlocks", "Neg", "QuantizeBlocks"]


def test_a_product_that_is_an_output_and_a_summand_is_still_given() -> None:
    text = "x, r => y, p { k = Neg(r) p = MatMul(x, w) y = Add(p, k) }"
    assert "MatMulBlocks" in rewritten(text)


def test_a_product_is_added_to_itself() -> None:
    assert rewritten("x => y { p = MatMul(x, w) y = Add(p, p) }") == ["Add", *PRODUCT]


def test_one_of_two_products_adds_the_other() -> None:
    text = "x => y { p = MatMul(x, w) q = MatMul(x, w2) y = Add(p, q) }"
    assert rewritten(text) == ["MatMulBlocks", "MatMulBlocks", "QuantizeBlocks"]


def test_sums_of_sums_are_added_by_their_products() -> None:
    text = """x, r => y {
      k = Neg(r)
      p = MatMul(x, w)
      q = MatMul(x, w2)
      a = Add(k, p)
      y = Add(a, q)
    }"""
    assert rewritten(text) == ["MatMulBlocks", "MatMulBlocks", "Neg", "QuantizeBlocks"]


def test_two_products_may_share_their_weights() -> None:
    text = "x, g => y, z { y = MatMul(x, w) z = MatMul(g, w) }"
    assert rewritten(text) == ["MatMulBlocks", "MatMulBlocks", "QuantizeBlocks", "QuantizeBlocks"]


def test_weights_that_something_else_reads_stay_as_well() -> None:
    text = "x => y, z { y = MatMul(x, square) z = Mul(norm, square) }"
    assert rewritten(text) == ["MatMulBlocks", "Mul", "QuantizeBlocks"]
    assert {"square", "square.values"} <= weight_names(text)


@pytest.mark.parametrize(
    "product", ["MatMul(odd, odd_depth)", "MatMul(x, odd_width)", "MatMul(x, stack)"]
)
def test_a_product_that_does_not_fit_stays(product: str) -> None:
    model = parse(f"x, odd => y {{ y = {product} }}")
    expected = model.graph.SerializeToString()
    use_int16_operators(model)
    assert model.graph.SerializeToString() == expected


def test_a_product_of_two_computed_matrices_stays() -> None:
    text = "x, g => y { t = Transpose <perm = [0, 2, 1]> (g) y = MatMul(x, t) }"
    assert rewritten(text) == ["MatMul", "Transpose"]


def test_causal_attention_is_the_engines_own() -> None:
    attention = "y = Attention <is_causal = 1, q_num_heads = 4, kv_num_heads = 2> (x, r, r)"
    assert rewritten(f"x, r => y {{ {attention} }}") == ["CausalAttention"]


@pytest.mark.parametrize(
    ("arguments", "inputs"),
    [
        ("is_causal = 0", "x, r, r"),
        ("is_causal = 1, scale = 0.5", "x, r, r"),
        ("is_causal = 1, softcap = 2.0", "x, r, r"),
        ("is_causal = 1", "x, r, r, mask"),
    ],
)
def test_attention_of_another_kind_stays(arguments: str, inputs: str) -> None:
    attention = f"y = Attention <{arguments}, q_num_heads = 4, kv_num_heads = 2> ({inputs})"
    assert rewritten(f"x, r => y {{ {attention} }}") == ["Attention"]


def test_nothing_of_an_attention_layer_stays() -> None:
    text = f"""x => y {{
      {NORM}
      q = MatMul(n, square)
      k = MatMul(n, w)
      v = MatMul(n, w2)
      a = Attention <is_causal = 1, q_num_heads = 4, kv_num_heads = 2> (q, k, v)
      y = MatMul(a, w)
    }}"""
    operators = ["CausalAttention", *["MatMulBlocks"] * 4, "NormalizeBlocks", "QuantizeBlocks"]
    assert rewritten(text) == operators


def test_the_domain_is_declared_once() -> None:
    model = parse("x => y { y = MatMul(x, w) }")
    use_int16_operators(model)
    assert [opset.domain for opset in model.opset_import] == ["", "llmsrec"]
    onnx.checker.check_model(model, full_check=True)
