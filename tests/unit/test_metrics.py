"""Ranks are fair to ties and the metrics stay within their bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.errors import TrainingError
from llmsrec.metrics import hit_rate, ndcg, rank_of_target, ranks_of_first

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(scores=SCORES, data=st.data())
def test_rank_lies_midway_between_the_best_and_worst_order_of_ties(
    scores: list[float], data: st.DataObject
) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    descending = sorted(scores, reverse=True)
    best = descending.index(scores[target])
    worst = len(scores) - 1 - descending[::-1].index(scores[target])
    assert rank_of_target(np.array(scores), target) == (best + worst) / 2


@given(scores=SCORES, seed=st.integers(0, 2**32))
def test_rank_does_not_depend_on_the_order_of_the_others(scores: list[float], seed: int) -> None:
    shuffled = np.array(scores)
    np.random.default_rng(seed).shuffle(shuffled[1:])
    assert rank_of_target(np.array(scores), 0) == rank_of_target(shuffled, 0)


def test_many_users_are_ranked_at_once() -> None:
    scores = np.array([[3, 2, 1], [3, 2, 1], [1, 1, 2]], np.float32)
    targets = np.array([0, 2, 1], np.int32)
    assert rank_of_target(scores, targets).tolist() == [0, 2, 1.5]
    assert ranks_of_first(scores).tolist() == [0, 0, 1.5]


def test_candidates_at_minus_infinity_are_ruled_out() -> None:
    assert rank_of_target(np.array([-np.inf, 1.0, -np.inf]), 1) == 0


def test_nan_is_refused_rather_than_ranked_first() -> None:
    with pytest.raises(TrainingError, match="NaN"):
        rank_of_target(np.array([1.0, np.nan, 2.0]), 1)


def test_metrics_of_known_ranks() -> None:
    ranks = np.array([0, 1, 2, 9.5, 10])
    assert hit_rate(ranks, 10) == 0.8
    assert hit_rate(ranks, 1) == 0.2
    assert ndcg(ranks, 2) == pytest.approx((1 + 1 / np.log2(3)) / 5)


@given(
    ranks=st.lists(st.integers(0, 200).map(lambda half: half / 2), min_size=1),
    k=st.integers(1, 50),
)
def test_metrics_are_bounded_and_grow_with_k(ranks: list[float], k: int) -> None:
    array = np.array(ranks)
    assert 0 <= ndcg(array, k) <= hit_rate(array, k) <= 1
    assert ndcg(array, k) <= ndcg(array, k + 1)
    assert hit_rate(array, k) <= hit_rate(array, k + 1)
