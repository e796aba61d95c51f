"""Quantization, alone and after a norm or a gate, against NumPy, on each instruction set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.compiled_kernels import best, supported
from support.operator_kernels import BLOCK, INSTRUCTION_SETS, Kernels, Quantized

MAX_VALUE = 8191
HALF_STEP = 0.502
"""Of a step: half of it, and what float32 rounds before the number is rounded to an integer."""


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(request.param)


def random_rows(seed: int, num_rows: int, num_blocks: int, exponent: float) -> NDArray[np.float32]:
    """Draw blocks whose magnitudes differ by up to a thousand, `10**exponent` the largest."""
    rng = np.random.default_rng(seed)
    magnitudes = 10 ** rng.uniform(exponent - 3, exponent, (num_rows, num_blocks, 1))
    numbers = rng.uniform(-1, 1, (num_rows, num_blocks, BLOCK)) * magnitudes
    return numbers.reshape(num_rows, -1).astype(np.float32)


def assert_quantizes(found: Quantized, x: NDArray[np.floating], tolerance: float = 0) -> None:
    """Compare with numbers that are themselves known to a relative `tolerance`."""
    steps = np.repeat(found.scales, BLOCK, axis=-1)
    assert np.abs(found.values).max(initial=0) <= MAX_VALUE
    error = np.abs(found.numbers() - x)
    assert (error <= HALF_STEP * steps + tolerance * np.abs(x) + 1e-30).all()
    largest = np.abs(x).reshape(*found.scales.shape, BLOCK).max(axis=-1)
    np.testing.assert_allclose(found.scales, largest / MAX_VALUE, max(tolerance, 1e-7), 1e-34)


rows = st.builds(
    random_rows,
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 9),
    num_blocks=st.integers(1, 5),
    exponent=st.integers(-25, 38),
)
moderate_rows = st.builds(
    random_rows,
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 9),
    num_blocks=st.integers(1, 5),
    exponent=st.sampled_from([-4, -2, 0, 2]),
)


def test_the_widest_supported_vectors_are_chosen() -> None:
    assert best() == list(supported())[-1]


@settings(deadline=None, max_examples=60)
@given(x=rows)
def test_numbers_come_back_within_half_a_step(kernels: Kernels, x: NDArray[np.float32]) -> None:
    assert_quantizes(kernels.quantize(x), x)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("place", range(BLOCK))
def test_the_largest_number_takes_the_largest_value_wherever_it_stands(
    kernels: Kernels, place: int, sign: int
) -> None:
    x = np.ones((1, BLOCK), np.float32)
    x[0, place] = sign * 3
    assert kernels.quantize(x).values[0, place] == sign * MAX_VALUE


@settings(deadline=None, max_examples=30)
@given(x=moderate_rows, epsilon=st.sampled_from([1e-6, 1e-5, 1e-2]))
def test_a_norm_is_quantized(kernels: Kernels, x: NDArray[np.float32], epsilon: float) -> None:
    weight = np.random.default_rng(len(x)).standard_normal(x.shape[1:], np.float32)
    mean_squares = np.mean(np.square(x, dtype=np.float64), axis=1, keepdims=True)  # [T, 1]
    expected = x / np.sqrt(mean_squares + epsilon) * weight
    assert_quantizes(kernels.normalize(x, weight, epsilon), expected, tolerance=2e-6)


@settings(deadline=None, max_examples=60)
@given(gate=moderate_rows, seed=st.integers(0, 10_000))
def test_a_gate_is_quantized(kernels: Kernels, gate: NDArray[np.float32], seed: int) -> None:
    up = np.random.default_rng(seed).standard_normal(gate.shape, np.float32)
    silu = gate / (1 + np.exp(-gate.astype(np.float64)))
    assert_quantizes(kernels.gate(gate, up), silu * up, tolerance=2e-6)


@pytest.mark.parametrize("size", [5, 30, 86, 88, 100, 1e4, 1e30])
def test_a_large_gate_is_open_or_closed(kernels: Kernels, size: float) -> None:
    gate = np.resize([size, -size], (1, BLOCK)).astype(np.float32)
    up = np.linspace(-1, 1, BLOCK, dtype=np.float32)[None]
    silu = gate * (1 + np.tanh(gate / 2, dtype=np.float64)) / 2
    assert_quantizes(kernels.gate(gate, up), silu * up, tolerance=2e-6)


@pytest.mark.parametrize("smallest", [0, 1e-45, 1e-38, 1e-31])
def test_a_tiny_block_is_harmless(kernels: Kernels, smallest: float) -> None:
    x = np.full((1, 3 * BLOCK), smallest, np.float32)
    x[0, BLOCK : 2 * BLOCK] = 1
    found = kernels.quantize(x)
    np.testing.assert_array_equal(found.values[0], np.repeat([0, MAX_VALUE, 0], BLOCK))
    assert found.scales[0, 0] == found.scales[0, 2] == x[0, 0] / np.float32(MAX_VALUE)


@pytest.mark.parametrize("number", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 17, 38, BLOCK - 1])
def test_no_finite_scale_hides_a_number_that_is_not(
    kernels: Kernels, number: float, place: int
) -> None:
    x = random_rows(1, num_rows=3, num_blocks=3, exponent=0)
    expected = kernels.quantize(x)
    x[1, BLOCK + place] = number
    found = kernels.quantize(x)
    assert not np.isfinite(found.scales[1, 1])
    others = np.arange(9).reshape(3, 3) != 4
    np.testing.assert_array_equal(found.scales[others], expected.scales[others])
    values, expected_values = (each.values.reshape(3, 3, BLOCK) for each in (found, expected))
    np.testing.assert_array_equal(values[others], expected_values[others])


def test_a_nan_spoils_the_row_of_a_norm_and_the_block_of_a_gate(kernels: Kernels) -> None:
    x = random_rows(1, num_rows=3, num_blocks=2, exponent=0)
    x[1, 70] = np.nan
    ones = np.ones_like(x)
    normed = np.isfinite(kernels.normalize(x, ones[0], 1e-5).scales)
    np.testing.assert_array_equal(normed, [[True, True], [False, False], [True, True]])
    for gated in (kernels.gate(x, ones), kernels.gate(ones, x)):
        finite = np.isfinite(gated.scales)
        np.testing.assert_array_equal(finite, [[True, True], [True, False], [True, True]])


@settings(deadline=None, max_examples=30)
@given(x=moderate_rows)
def test_a_row_is_quantized_alone_as_among_others(kernels: Kernels, x: NDArray[np.float32]) -> None:
    weight = x[0] + 1
    together = kernels.quantize(x), kernels.normalize(x, weight, 1e-5), kernels.gate(x, x + 1)
    for row in range(len(x)):
        one = x[[row]]
        alone = (
            kernels.quantize(one),
            kernels.normalize(one, weight, 1e-5),
            kernels.gate(one, one + 1),
        )
        for all_rows, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(all_rows.values[[row]], single.values)
            np.testing.assert_array_equal(all_rows.scales[[row]], single.scales)
