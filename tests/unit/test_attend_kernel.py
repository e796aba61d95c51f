"""Causal attention of one head against NumPy, on each instruction set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.operator_kernels import INSTRUCTION_SETS, Head, Kernels


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(request.param)


def random_head(seed: int, num_tokens: int, dim: int) -> Head:
    rng = np.random.default_rng(seed)
    return Head(*rng.standard_normal((3, num_tokens, dim), np.float32))


def attended(head: Head) -> NDArray[np.float64]:
    queries, keys, values = (each.astype(np.float64) for each in head)
    scores = queries @ keys.T / np.sqrt(queries.shape[1])  # [T, T]
    scores[np.triu_indices(len(scores), 1)] = -np.inf
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return weights @ values  # [T, D]


dims = st.sampled_from([1, 8, 48, 64, 80])
heads = st.builds(random_head, seed=st.integers(0, 10_000), num_tokens=st.integers(1, 70), dim=dims)


@settings(deadline=None, max_examples=80)
@given(head=heads)
def test_tokens_attend_to_themselves_and_those_before(kernels: Kernels, head: Head) -> None:
    found = kernels.attend(head, range(len(head.queries)))
    np.testing.assert_allclose(found, attended(head), rtol=1e-5, atol=3e-6)


@settings(deadline=None, max_examples=60)
@given(head=heads, data=st.data())
def test_some_rows_attend_as_they_do_among_all(
    kernels: Kernels, head: Head, data: st.DataObject
) -> None:
    num_tokens = len(head.queries)
    first = data.draw(st.integers(0, num_tokens - 1))
    rows = range(first, data.draw(st.integers(first + 1, num_tokens)))
    found = kernels.attend(head, rows)
    expected = kernels.attend(head, range(num_tokens))[first : rows.stop]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dim", [8, 48, 64, 80])
def test_long_prompts_are_attended_in_parts(kernels: Kernels, dim: int) -> None:
    head = random_head(3, num_tokens=301, dim=dim)
    expected = attended(head)
    for first in range(0, 301, 64):
        rows = range(first, min(first + 64, 301))
        found = kernels.attend(head, rows)
        np.testing.assert_allclose(found, expected[first : rows.stop], rtol=1e-5, atol=3e-6)


@settings(deadline=None, max_examples=40)
@given(head=heads, token=st.integers(0, 69))
def test_later_tokens_change_nothing(kernels: Kernels, head: Head, token: int) -> None:
    token = min(token, len(head.queries) - 1)
    rows = range(len(head.queries))
    expected = kernels.attend(head, rows)[:token]
    head.keys[token:] = 1e3
    head.values[token:] = -1e3
    np.testing.assert_array_equal(kernels.attend(head, rows)[:token], expected)


@pytest.mark.parametrize("exponent", [2, 6, 20, 60])
@pytest.mark.parametrize("num_tokens", [3, 16, 33])
def test_large_scores_do_not_overflow(kernels: Kernels, exponent: int, num_tokens: int) -> None:
    queries, keys, values = random_head(4, num_tokens, dim=64)
    size = 2.0**exponent  # of integers, whose products are exact
    head = Head(np.rint(2 * queries) * np.float32(size), np.rint(2 * keys), values)
    found = kernels.attend(head, range(num_tokens))
    np.testing.assert_allclose(found, attended(head), rtol=1e-5, atol=3e-6)


def test_scores_that_are_all_far_below_zero_still_share_the_weight(kernels: Kernels) -> None:
    ones = np.ones((9, 8), np.float32)
    values = np.arange(72, dtype=np.float32).reshape(9, 8)
    found = kernels.attend(Head(-1e10 * ones, 1e10 * ones, values), range(9))
    means = np.cumsum(values, axis=0) / np.arange(1, 10)[:, None]
    np.testing.assert_allclose(found, means, rtol=1e-6)


@pytest.mark.parametrize("row", range(11))
def test_a_nan_in_a_query_spoils_its_row_only(kernels: Kernels, row: int) -> None:
    head = random_head(5, num_tokens=11, dim=48)
    expected = kernels.attend(head, range(11))
    head.queries[row, 7] = np.nan
    found = kernels.attend(head, range(11))
    assert np.isnan(found[row]).all()
    others = np.arange(11) != row
    np.testing.assert_array_equal(found[others], expected[others])


@pytest.mark.parametrize("token", [0, 3, 9])
def test_a_nan_in_a_key_spoils_every_row_that_sees_it(kernels: Kernels, token: int) -> None:
    head = random_head(6, num_tokens=40, dim=48)
    head.keys[token, 7] = np.nan
    found = kernels.attend(head, range(40))
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), np.arange(40) >= token)
