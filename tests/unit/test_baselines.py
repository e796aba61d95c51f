"""The baselines count what they say, and reproduce the known floors on ML-100K."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from llmsrec import baselines
from llmsrec.catalogue import CatalogueItem
from llmsrec.dataset import Dataset, build_dataset
from llmsrec.metrics import hit_rate, ndcg, rank_of_target, ranks_of_first
from llmsrec.movielens import load_movielens

Scorer = Callable[[Dataset], NDArray[np.float32]]


def build(*sequences: list[int]) -> Dataset:
    catalogue = [CatalogueItem(str(row), str(row)) for row in range(8)]
    interactions = {
        str(user): [(row, place) for place, row in enumerate(rows)]
        for user, rows in enumerate(sequences)
    }
    return build_dataset("tiny", catalogue, interactions)


def test_popularity_counts_training_parts_only() -> None:
    scores = baselines.popularity(build([0, 1, 2, 3], [0, 4, 5, 3]))
    assert scores.tolist() == [[2, 1, 0, 0, 1, 0, 0, 0]] * 2


def test_co_occurrence_weighs_what_followed_by_its_distance() -> None:
    scores = baselines.co_occurrence(build([0, 1, 2, 7], [0, 6, 7]))
    after_0 = np.array([0, 1, 1 / 2, 0, 0, 0, 1, 0])
    after_1 = np.array([0, 0, 1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(scores[0], after_1 / 2 + after_0 / 3, rtol=1e-6)
    np.testing.assert_allclose(scores[1], after_0 / 2, rtol=1e-6)


def test_co_occurrence_ignores_the_test_target() -> None:
    assert (baselines.co_occurrence(build([0, 1, 7], [2, 3, 7]))[:, 7] == 0).all()


@pytest.mark.parametrize(
    ("scorer", "sampled", "full"),
    [
        pytest.param(baselines.popularity, (0.224, 0.407), (0.044, 0.086), id="popularity"),
        pytest.param(baselines.co_occurrence, (0.428, 0.682), (0.105, 0.194), id="co-occurrence"),
    ],
)
def test_floor_on_ml_100k_is_reproduced(
    scorer: Scorer, sampled: tuple[float, float], full: tuple[float, float]
) -> None:
    dataset = load_movielens("ml-100k")
    scores = scorer(dataset)
    users = np.arange(dataset.num_users)
    ranks = ranks_of_first(scores[users[:, None], dataset.test_candidates()])
    assert (ndcg(ranks, 10), hit_rate(ranks, 10)) == pytest.approx(sampled, abs=0.02)
    unseen = np.array(scores)
    for user in range(dataset.num_users):
        unseen[user, dataset.test_history(user)[0]] = -np.inf
    ranks = rank_of_target(unseen, dataset.test_targets)
    assert (ndcg(ranks, 10), hit_rate(ranks, 10)) == pytest.approx(full, abs=0.01)
