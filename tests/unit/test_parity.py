"""The parity report on hand-made vectors, and the bars that it must clear."""

import math

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.bundle.manifest import ParityReport
from export.errors import BuildError
from export.parity import compare, require
from export.recipes import RECIPES

NUM_ITEMS = 12
USERS = np.array([[1, 0], [2, 0]], np.float32)
PERFECT = ParityReport(
    runtime="onnxruntime",
    num_histories=2,
    cosine_min=1.0,
    cosine_p1=1.0,
    cosine_mean=1.0,
    item_cosine_min=1.0,
    norm_ratio_min=1.0,
    norm_ratio_max=1.0,
    overlap_at_10=1.0,
    top_1=1.0,
)


def items_of(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Give items `[N, 2]` whose first value decides their score."""
    return np.stack([scores, np.ones_like(scores)], axis=1).astype(np.float32)


def compare_scores(scores: NDArray[np.float64], expected: NDArray[np.float64]) -> ParityReport:
    """Compare two users who score each item, a unit vector, as their own values say."""
    users, expected_users = (
        np.stack([each, 2 * each]).astype(np.float32) for each in (scores, expected)
    )
    items = np.eye(len(scores), dtype=np.float32)
    return compare(users, items, expected_users, items)


def swapped(scores: NDArray[np.float64], first: int, second: int) -> NDArray[np.float64]:
    order = np.arange(len(scores))
    order[[first, second]] = second, first
    return scores[order]


@pytest.fixture
def descending() -> NDArray[np.float64]:
    return np.linspace(NUM_ITEMS, 1, NUM_ITEMS)


def test_equal_vectors_are_perfect(descending: NDArray[np.float64]) -> None:
    report = compare_scores(descending, descending)
    figures = (msgspec.structs.asdict(each) for each in (report, PERFECT))
    assert next(figures) == pytest.approx(next(figures))
    require(report, RECIPES["fp32"].bars, "fp32")


def test_an_item_that_should_not_be_in_the_first_ten_lowers_the_overlap_alone(
    descending: NDArray[np.float64],
) -> None:
    report = compare_scores(swapped(descending, 9, 10), descending)
    assert (report.overlap_at_10, report.top_1) == (0.9, 1.0)


def test_another_first_item_lowers_top_1_alone(descending: NDArray[np.float64]) -> None:
    report = compare_scores(swapped(descending, 0, 1), descending)
    assert (report.overlap_at_10, report.top_1) == (1.0, 0.0)


def test_one_user_in_two_counts_half(descending: NDArray[np.float64]) -> None:
    users = np.array([[1, 0], [-1, 0]], np.float32)
    flipped = np.array([[1, 0], [1, 0]], np.float32)
    report = compare(flipped, items_of(descending), users, items_of(descending))
    assert (report.top_1, report.overlap_at_10) == (0.5, 0.9)
    assert (report.cosine_min, report.cosine_mean) == (-1.0, 0.0)


@pytest.mark.parametrize("gap", [0.0, 1e-5])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (9, 10), (9, 11)])
def test_items_of_equal_score_are_interchangeable(
    descending: NDArray[np.float64], first: int, second: int, gap: float
) -> None:
    descending[first : second + 1] = descending[first]
    descending[second] -= gap
    report = compare_scores(swapped(descending, first, second), descending)
    assert (report.overlap_at_10, report.top_1) == (1.0, 1.0)


def test_a_gap_wider_than_rounding_is_no_tie(descending: NDArray[np.float64]) -> None:
    descending[10] = descending[9] - 1e-3
    report = compare_scores(swapped(descending, 9, 10), descending)
    assert report.overlap_at_10 == 0.9


def test_fewer_than_ten_items_are_compared_in_full() -> None:
    report = compare_scores(np.array([1.0, 2, 3]), np.array([3.0, 2, 1]))
    assert (report.overlap_at_10, report.top_1) == (1.0, 0.0)


def test_lengths_show_in_the_norm_ratio_and_directions_in_the_cosine(
    descending: NDArray[np.float64],
) -> None:
    items = items_of(descending)
    longer = USERS * np.array([[2], [0.5]], np.float32)
    report = compare(longer, items, USERS, items)
    assert (report.norm_ratio_min, report.norm_ratio_max) == (0.5, 2.0)
    assert (report.cosine_min, report.item_cosine_min) == pytest.approx((1, 1))

    turned = np.array([[1, 1], [2, 0]], np.float32)
    report = compare(turned, items, USERS, items)
    assert report.cosine_min == pytest.approx(math.sqrt(0.5))
    assert report.cosine_mean == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert report.cosine_min < report.cosine_p1 < report.cosine_mean


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("tower", ["users", "items"])
def test_a_vector_that_is_no_vector_never_passes(
    descending: NDArray[np.float64], tower: str, broken: float
) -> None:
    users, items = USERS.copy(), items_of(descending)
    (users if tower == "users" else items)[1] = broken
    with pytest.raises(BuildError, match=f"cosine of {tower[:-1]} vectors nan < "):
        require(compare(users, items, USERS, items_of(descending)), RECIPES["fp32"].bars, "fp32")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("cosine_min", 0.99998, "cosine of user vectors 0.9999800 < 0.99999"),
        ("item_cosine_min", 0.5, "cosine of item vectors 0.5000000 < 0.99999"),
        ("overlap_at_10", 0.999, "overlap@10 0.9990000 < 1.0"),
        ("cosine_min", math.nan, "cosine of user vectors nan < 0.99999"),
        ("item_cosine_min", math.nan, "cosine of item vectors nan < 0.99999"),
        ("overlap_at_10", math.nan, "overlap@10 nan < 1.0"),
    ],
)
def test_what_fell_short_is_named(field: str, value: float, problem: str) -> None:
    with pytest.raises(BuildError) as caught:
        require(msgspec.structs.replace(PERFECT, **{field: value}), RECIPES["fp32"].bars, "fp32")
    assert f": {problem}; no bundle was written" in str(caught.value)


def test_everything_that_fell_short_is_named() -> None:
    report = msgspec.structs.replace(PERFECT, cosine_min=0.1, overlap_at_10=0.2)
    with pytest.raises(BuildError, match=r"user vectors 0\.1.*; overlap@10 0\.2"):
        require(report, RECIPES["fp32"].bars, "fp32")
