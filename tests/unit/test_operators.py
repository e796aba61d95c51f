"""Quantization and the product of blocks through ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.operator_models import model, node, numbers, quantize, run, session, unpacked

from engine import native
from engine.encoders.cpu import find_operators
from engine.errors import BackendUnavailable
from export.int16 import BLOCK, MAX_WEIGHT, PANEL, pack

Arrays = dict[str, NDArray[Any]]
SHAPES = [(128,), (3, 64), (2, 75, 128), (1, 300, 64), (2, 3, 5, 192)]
"""Of 128 rows and more, several tasks share the work."""


def random_numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def product_feed(*shape: int, width: int = 96) -> Arrays:
    weight, weight_scales = pack(random_numbers(1, shape[-1], width))
    values, scales = quantize(random_numbers(2, *shape))
    feed = {"values": values, "scales": scales, "weight": weight, "weight_scales": weight_scales}
    return {**feed, "addend": random_numbers(3, *shape[:-1], width)}


def multiply(feed: Arrays, num_threads: int = 1) -> NDArray[np.float32]:
    made = model([node("MatMulBlocks", " ".join(feed), "sum")], feed, {"sum": np.float32})
    return run(made, feed, num_threads)[0]


def without_addend(feed: Arrays) -> Arrays:
    return {name: array for name, array in feed.items() if name != "addend"}


def test_packed_weights_stand_for_the_weights_within_half_a_step() -> None:
    weight = random_numbers(4, 192, 96) * np.logspace(-3, 3, 96, dtype=np.float32)
    weight[:BLOCK, 5] = 0
    values, scales = pack(weight)
    assert values.shape == (3, 96, PANEL, 2)
    assert scales.shape == (3, 3, PANEL)
    assert np.abs(values).max() == MAX_WEIGHT
    largest = np.abs(weight).reshape(3, BLOCK, 96).max(axis=1)  # [K / BLOCK, N]
    steps = np.repeat(largest / MAX_WEIGHT, BLOCK, axis=0)
    assert (np.abs(unpacked(values, scales) - weight) <= 0.501 * steps).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [PANEL, 3 * PANEL])
def test_the_product_is_that_of_the_quantized_numbers(shape: tuple[int, ...], width: int) -> None:
    feed = product_feed(*shape, width=width)
    left = numbers(feed["values"], feed["scales"])
    expected = left @ unpacked(feed["weight"], feed["weight_scales"])
    for found, sums in (
        (multiply(without_addend(feed)), expected),
        (multiply(feed), expected + feed["addend"]),
    ):
        assert found.shape == sums.shape
        np.testing.assert_allclose(found, sums, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_quantized_in_place(shape: tuple[int, ...]) -> None:
    x = random_numbers(5, *shape)
    values, scales = quantize(x)
    assert scales.shape == (*shape[:-1], shape[-1] // BLOCK)
    steps = np.repeat(scales, BLOCK, axis=-1)
    assert (np.abs(numbers(values, scales) - x) <= 0.502 * steps).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_norm_and_a_gate_are_quantized(shape: tuple[int, ...]) -> None:
    x, up, weight = (
        random_numbers(6, *shape),
        random_numbers(7, *shape),
        random_numbers(8, shape[-1]),
    )
    x *= 0.1
    feed = {"x": x, "up": up, "weight": weight}
    outputs = {"normed": np.int16, "n": np.float32, "gated": np.int16, "g": np.float32}
    nodes = [
        node("NormalizeBlocks", "x weight", "normed n", epsilon=0.01),
        node("GateBlocks", "x up", "gated g"),
    ]
    normed, norm_scales, gated, gate_scales = run(model(nodes, feed, outputs), feed)
    mean_squares = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
    expected = x / np.sqrt(mean_squares + 0.01) * weight
    np.testing.assert_allclose(numbers(normed, norm_scales), expected, atol=5e-4)
    expected = x / (1 + np.exp(-x)) * up
    np.testing.assert_allclose(numbers(gated, gate_scales), expected, atol=5e-5)


def test_thread_count_changes_nothing() -> None:
    feed = product_feed(2, 333, 192)
    np.testing.assert_array_equal(multiply(feed, num_threads=2), multiply(feed, num_threads=1))


def test_sessions_share_the_library() -> None:
    feed = product_feed(2, 5, 64)
    made = model([node("MatMulBlocks", " ".join(feed), "sum")], feed, {"sum": np.float32})
    first, second = session(made), session(made, num_threads=2)
    expected = first.run(None, feed)[0]
    np.testing.assert_array_equal(second.run(None, feed)[0], expected)
    del first
    np.testing.assert_array_equal(second.run(None, feed)[0], expected)


@pytest.mark.parametrize("shape", [(0, 64), (0, 7, 128), (3, 0, 64)])
def test_no_rows_give_no_sums(shape: tuple[int, ...]) -> None:
    feed = product_feed(*shape)
    assert multiply(feed).shape == feed["addend"].shape
    feed = {"x": random_numbers(1, *shape), "weight": random_numbers(2, shape[-1])}
    outputs = {"values": np.int16, "scales": np.float32}
    for fused in (
        node("NormalizeBlocks", "x weight", "values scales", epsilon=0.0),
        node("GateBlocks", "x x", "values scales"),
    ):
        values, scales = run(model([fused], feed, outputs), feed)
        assert values.shape == shape
        assert scales.shape == (*shape[:-1], shape[-1] // BLOCK)


def test_operators_that_are_not_built_are_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "__path__", [str(tmp_path)])
    with pytest.raises(BackendUnavailable, match=r"_operators\.so.* not built; .*pip install"):
        find_operators()
