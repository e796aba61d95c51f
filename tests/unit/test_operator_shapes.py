"""Shapes that the operators refuse, with what they expected."""

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from support.operator_models import model, node, run
from test_operators import multiply, product_feed


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("values", (3, 100), r"values of whole blocks; got \[3, 100\]"),
        ("values", (3, 0), r"values of whole blocks; got \[3, 0\]"),
        ("values", (), r"values of whole blocks; got \[\]"),
        ("values", (3, 64), r"weights of the values' depth; got \[3, 64, 32, 2\]"),
        ("values", (4, 128), r"scale for each block of values; got \[3, 2\]"),
        ("scales", (3, 1), r"scale for each block of values; got \[3, 1\]"),
        ("scales", (6,), r"scale for each block of values; got \[6\]"),
        ("weight", (3, 96, 32, 2), r"weights of the values' depth; got \[3, 96, 32, 2\]"),
        ("weight", (128, 96), r"packed weights of the values' depth; got \[128, 96\]"),
        ("weight", (), r"packed weights of the values' depth; got \[\]"),
        ("weight_scales", (3, 1, 32), r"scale for each block of weights; got \[3, 1, 32\]"),
        ("weight_scales", (2, 2, 32), r"scale for each block of weights; got \[2, 2, 32\]"),
        ("addend", (3, 32), r"an addend like the product; got \[3, 32\]"),
        ("addend", (96,), r"an addend like the product; got \[96\]"),
        ("addend", (1, 3, 96), r"an addend like the product; got \[1, 3, 96\]"),
    ],
)
def test_a_product_of_unfit_shapes_is_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    feed = product_feed(3, 128)
    feed[name] = np.ones(shape, feed[name].dtype)
    with pytest.raises(InvalidArgument, match=message):
        multiply(feed)


@pytest.mark.parametrize(
    ("operator", "shapes", "message"),
    [
        ("QuantizeBlocks", [(2, 96)], r"rows of whole blocks; got \[2, 96\]"),
        ("QuantizeBlocks", [()], r"rows of whole blocks; got \[\]"),
        ("NormalizeBlocks", [(2, 96), (96,)], r"rows of whole blocks; got \[2, 96\]"),
        ("NormalizeBlocks", [(2, 64), (128,)], r"a weight for each column; got \[128\]"),
        ("NormalizeBlocks", [(2, 64), (1, 64)], r"a weight for each column; got \[1, 64\]"),
        ("NormalizeBlocks", [(), ()], r"a weight for each column; got \[\]"),
        ("GateBlocks", [(2, 96), (2, 96)], r"rows of whole blocks; got \[2, 96\]"),
        ("GateBlocks", [(), ()], r"rows of whole blocks; got \[\]"),
        ("GateBlocks", [(2, 64), (1, 64)], r"two tensors of one shape; got \[1, 64\]"),
    ],
)
def test_unfit_rows_are_not_quantized(
    operator: str, shapes: list[tuple[int, ...]], message: str
) -> None:
    feed = {f"x{index}": np.ones(shape, np.float32) for index, shape in enumerate(shapes)}
    attributes = {"epsilon": 1e-5} if operator == "NormalizeBlocks" else {}
    made = node(operator, " ".join(feed), "values scales", **attributes)
    with pytest.raises(InvalidArgument, match=message):
        run(model([made], feed, {"values": np.int16, "scales": np.float32}), feed)
