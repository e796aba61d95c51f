"""Masked top-k against a NumPy oracle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.native._native import masked_topk
from engine.query import Ranking, Search
from engine.ranking.cpu import CpuRanker

NO_ROWS = np.empty(0, np.int32)


def retrieve(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    excluded_rows: Sequence[NDArray[np.int32]],
    k: Sequence[int],
    num_threads: int,
) -> list[Ranking]:
    pairs = zip(k, excluded_rows, strict=True)
    return CpuRanker(items, num_threads).rank(users, [Search(*pair) for pair in pairs])


@dataclass(frozen=True)
class Case:
    users: NDArray[np.float32]
    items: NDArray[np.float32]
    excluded_rows: Sequence[NDArray[np.int32]]
    k: Sequence[int]

    def run(self, num_threads: int = 1) -> list[Ranking]:
        return retrieve(self.users, self.items, self.excluded_rows, self.k, num_threads)


def random_search(seed: int, num_users: int, num_items: int, dim: int, k: int) -> Case:
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.1, 0.9, 1.0], num_users)
    return Case(
        rng.standard_normal((num_users, dim), np.float32),
        rng.standard_normal((num_items, dim), np.float32),
        [np.flatnonzero(rng.random(num_items) < part).astype(np.int32) for part in share],
        [int(count) for count in rng.integers(0, k + 1, num_users)],
    )


def with_integer_vectors(search: Case) -> Case:
    """Make every inner product exact and most of them tie."""
    return Case(np.rint(search.users), np.rint(search.items / 2), search.excluded_rows, search.k)


def oracle_rows(search: Case, query: int) -> NDArray[np.int64]:
    scores = search.items.astype(np.float64) @ search.users[query].astype(np.float64)
    remaining = np.setdiff1d(np.arange(len(search.items)), search.excluded_rows[query])
    order = np.argsort(-scores[remaining], kind="stable")
    return remaining[order][: search.k[query]]


def assert_identical(found: Sequence[Ranking], expected: Sequence[Ranking]) -> None:
    assert len(found) == len(expected)
    for (rows, scores), (expected_rows, expected_scores) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(scores, expected_scores)


searches = st.builds(
    random_search,
    seed=st.integers(0, 10_000),
    num_users=st.sampled_from([1, 3, 4, 5, 16, 17, 20, 21, 37]),
    num_items=st.one_of(st.integers(1, 40), st.sampled_from([600, 5000])),
    dim=st.sampled_from([1, 3, 8, 31, 64, 128, 130]),
    k=st.sampled_from([0, 1, 10, 100, 6000]),
)


@settings(deadline=None, max_examples=60)
@given(searches, st.sampled_from([1, 3]))
def test_ties_and_exclusions_rank_as_numpy_ranks_them(search: Case, num_threads: int) -> None:
    search = with_integer_vectors(search)
    for query, (rows, scores) in enumerate(search.run(num_threads)):
        expected = oracle_rows(search, query)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(scores, search.items[expected] @ search.users[query])


@settings(deadline=None, max_examples=60)
@given(searches)
def test_scores_are_inner_products_and_the_best_ones(search: Case) -> None:
    for query, (rows, scores) in enumerate(search.run()):
        expected = oracle_rows(search, query)
        assert len(rows) == len(expected)
        assert not np.isin(rows, search.excluded_rows[query]).any()
        products = search.items @ search.users[query]
        np.testing.assert_allclose(scores, products[rows], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores, products[expected], rtol=1e-4, atol=1e-4)
        assert (np.diff(scores) <= 0).all()


def test_thread_count_changes_nothing() -> None:
    search = random_search(1, num_users=21, num_items=30_000, dim=128, k=200)
    assert_identical(search.run(num_threads=4), search.run(num_threads=1))


def test_what_shares_a_batch_changes_nothing() -> None:
    search = random_search(2, num_users=37, num_items=3000, dim=128, k=50)
    alone = [
        retrieve(search.users[[query]], search.items, [excluded], [k], 1)[0]
        for query, (excluded, k) in enumerate(zip(search.excluded_rows, search.k, strict=True))
    ]
    assert_identical(search.run(), alone)


def test_a_score_does_not_depend_on_where_its_item_stands() -> None:
    search = random_search(3, num_users=1, num_items=600, dim=128, k=1)
    (rows, scores), *_ = retrieve(search.users, search.items, [NO_ROWS], [600], 1)
    for row, score in zip(rows[:20], scores[:20], strict=True):
        (_, alone), *_ = retrieve(search.users, search.items[[row]], [NO_ROWS], [1], 1)
        assert alone[0] == score


@pytest.mark.parametrize("direction", [1, -1], ids=["ascending", "descending"])
def test_sorted_catalogues_rank_correctly(direction: int) -> None:
    items = direction * np.arange(2000, dtype=np.float32)[:, None]  # [N, 1]
    search = Case(np.ones((1, 1), np.float32), items, [NO_ROWS], [7])
    (rows, _), *_ = search.run()
    np.testing.assert_array_equal(rows, oracle_rows(search, 0))


def test_places_without_an_item_hold_minus_one_and_minus_infinity() -> None:
    vectors = np.ones((2, 3), np.float32)
    offsets = np.array([0, 2, 2], np.int64)
    rows, scores = masked_topk(
        vectors, vectors, np.array([0, 1], np.int32), offsets, np.array([1, 3], np.int32), 1
    )
    np.testing.assert_array_equal(rows, [[-1, -1, -1], [0, 1, -1]])
    np.testing.assert_array_equal(scores, [[-np.inf] * 3, [3, 3, -np.inf]])


def test_no_queries_or_no_items_give_empty_rankings() -> None:
    vectors = np.ones((2, 3), np.float32)
    assert retrieve(vectors[:0], vectors, [], [], 1) == []
    (rows, scores), *_ = retrieve(vectors[:1], vectors[:0], [NO_ROWS], [5], 1)
    assert rows.size == scores.size == 0


def call(**changes: object) -> None:
    arguments: dict[str, object] = {
        "queries": np.ones((2, 3), np.float32),
        "items": np.ones((4, 3), np.float32),
        "excluded_rows": np.array([1, 3], np.int32),
        "excluded_offsets": np.array([0, 2, 2], np.int64),
        "k": np.array([1, 2], np.int32),
        "num_threads": 1,
    }
    kernel: Callable[..., object] = masked_topk
    kernel(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": np.ones((2, 3))}, r"float32 queries \[B, D\]; got shape \[2, 3\], 64-bit"),
        ({"queries": np.ones(3, np.float32)}, r"queries \[B, D\]; got shape \[3\]"),
        ({"queries": np.ones((2, 2), np.float32)}, r"one width; got \[2, 2\] and \[4, 3\]"),
        ({"items": np.ones((4, 6), np.float32)[:, ::2]}, "items .* not contiguous"),
        ({"items": np.ones((4, 3), np.int32)}, r"float32 items \[N, D\]"),
        ({"excluded_rows": np.array([1, 3])}, r"int32 excluded_rows \[E\]"),
        ({"excluded_rows": np.array([3, 1], np.int32)}, "ascending, unique rows"),
        ({"excluded_rows": np.array([1, 1], np.int32)}, "ascending, unique rows"),
        ({"excluded_rows": np.array([1, 4], np.int32)}, "ascending, unique rows"),
        ({"excluded_rows": np.array([-1, 4], np.int32)}, "ascending, unique rows"),
        ({"excluded_offsets": np.array([0, 2])}, r"excluded_offsets \[B \+ 1\] = \[3\]"),
        ({"excluded_offsets": np.array([0, 3, 2])}, "ascend from 0"),
        ({"excluded_offsets": np.array([0, 2, 3])}, "ascend from 0"),
        ({"excluded_offsets": np.array([1, 2, 2])}, "ascend from 0"),
        ({"k": np.array([1], np.int32)}, r"k \[B\] = \[2\]; got \[1\]"),
        ({"k": np.array([1, -1], np.int32)}, "k: expected no negative number"),
        ({"num_threads": 0}, "num_threads: expected at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_unfit_arguments_are_refused_with_what_was_expected(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(**changes)
