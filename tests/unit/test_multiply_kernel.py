"""The product of quantized blocks against NumPy, on each instruction set."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.operator_kernels import BLOCK, INSTRUCTION_SETS, PANEL, Kernels, Product, Quantized

MAX_VALUE, MAX_WEIGHT = 8191, 4095


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(request.param)


def random_product(seed: int, num_rows: int, num_blocks: int, has_addend: bool) -> Product:
    rng = np.random.default_rng(seed)
    depth = num_blocks * BLOCK
    values = rng.integers(-MAX_VALUE, MAX_VALUE + 1, (num_rows, depth), np.int16)
    scales = rng.uniform(0.1, 2, (num_rows, num_blocks)).astype(np.float32)
    addend = rng.standard_normal((num_rows, PANEL), np.float32) * 1e6
    return Product(
        Quantized(values, scales),
        rng.integers(-MAX_WEIGHT, MAX_WEIGHT + 1, (depth, PANEL), np.int16),
        rng.uniform(0.1, 2, (num_blocks, PANEL)).astype(np.float32),
        addend if has_addend else None,
    )


def with_scales_of_one(product: Product) -> Product:
    """Make each step exact, but for the rounding of a sum to float32."""
    left = Quantized(product.left.values, np.ones_like(product.left.scales))
    addend = None if product.addend is None else np.rint(product.addend)
    ones = np.ones_like(product.weight_scales)
    return dataclasses.replace(product, left=left, weight_scales=ones, addend=addend)


def integer_sums(product: Product) -> NDArray[np.float32]:
    """Add the blocks' products up in the kernel's order, each of them exact before it is added."""
    shape = (*product.left.scales.shape, BLOCK)
    values = product.left.values.reshape(shape).astype(np.int64)  # [T, blocks, BLOCK]
    weight = product.weight.reshape(-1, BLOCK, PANEL).astype(np.int64)  # [blocks, BLOCK, PANEL]
    total = np.zeros((len(values), PANEL), np.float32)
    if product.addend is not None:
        total += product.addend
    for block in range(len(weight)):
        total += (values[:, block] @ weight[block]).astype(np.float32)
    return total


products = st.builds(
    random_product,
    seed=st.integers(0, 10_000),
    num_rows=st.integers(1, 19),
    num_blocks=st.integers(1, 11),
    has_addend=st.booleans(),
)
placements = st.sampled_from([(32, 0), (64, 0), (64, 32), (96, 32), (41, 5)])


@settings(deadline=None, max_examples=80)
@given(product=products, placement=placements)
def test_sums_are_those_of_the_integers(
    kernels: Kernels, product: Product, placement: tuple[int, int]
) -> None:
    product = with_scales_of_one(product)
    found = kernels.multiply(product, *placement)
    np.testing.assert_array_equal(found, integer_sums(product))


@settings(deadline=None, max_examples=60)
@given(product=products, placement=placements)
def test_each_block_is_scaled(
    kernels: Kernels, product: Product, placement: tuple[int, int]
) -> None:
    weight = product.weight * np.repeat(product.weight_scales.astype(np.float64), BLOCK, axis=0)
    numbers = product.left.numbers()
    expected = numbers @ weight + (0 if product.addend is None else product.addend)
    magnitude = np.abs(numbers) @ np.abs(weight)
    error = np.abs(kernels.multiply(product, *placement) - expected)
    assert (error <= 1e-6 * (magnitude + np.abs(expected))).all()


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("num_rows", [1, 4, 6])
def test_extreme_values_do_not_overflow(
    kernels: Kernels, num_rows: int, signs: tuple[int, int]
) -> None:
    depth = 5 * BLOCK
    product = Product(
        Quantized(
            np.full((num_rows, depth), signs[0] * MAX_VALUE, np.int16),
            np.ones((num_rows, 5), np.float32),
        ),
        np.full((depth, PANEL), signs[1] * MAX_WEIGHT, np.int16),
        np.ones((5, PANEL), np.float32),
    )
    found = kernels.multiply(product)
    np.testing.assert_array_equal(found, integer_sums(product))
    exact = signs[0] * signs[1] * depth * MAX_VALUE * MAX_WEIGHT
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_each_value_meets_its_own_weights(kernels: Kernels) -> None:
    product = with_scales_of_one(
        random_product(1, num_rows=2 * BLOCK, num_blocks=2, has_addend=False)
    )
    identity = Quantized(np.eye(2 * BLOCK, dtype=np.int16), product.left.scales)
    found = kernels.multiply(dataclasses.replace(product, left=identity))
    np.testing.assert_array_equal(found, product.weight)


@settings(deadline=None, max_examples=40)
@given(product=products)
def test_a_row_is_multiplied_alone_as_among_others(kernels: Kernels, product: Product) -> None:
    together = kernels.multiply(product)
    for row in range(len(together)):
        left = Quantized(product.left.values[[row]], product.left.scales[[row]])
        addend = None if product.addend is None else product.addend[[row]]
        alone = kernels.multiply(dataclasses.replace(product, left=left, addend=addend))
        np.testing.assert_array_equal(alone, together[[row]])


@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_spoils_its_row_only(
    kernels: Kernels, scale: float, row: int
) -> None:
    product = random_product(2, num_rows=6, num_blocks=6, has_addend=True)
    expected = kernels.multiply(product)
    product.left.scales[row, 4] = scale
    found = kernels.multiply(product)
    assert not np.isfinite(found[row]).any()
    others = np.arange(6) != row
    np.testing.assert_array_equal(found[others], expected[others])
