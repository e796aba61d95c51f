"""Ranking metrics of one held-out target among candidates."""

import numpy as np
from numpy.typing import NDArray

from llmsrec.errors import TrainingError

Scores = NDArray[np.floating]


def rank_of_target(scores: Scores, target: int | NDArray[np.int32]) -> NDArray[np.float64]:
    """Count the candidates above the target, from 0, ties as half: neither luck nor malice.

    `scores [..., C]` and `target [...]`, an index into C, give `[...]`; -inf rules a candidate out.

    Raises:
        TrainingError: a score is NaN, which would compare as a perfect rank.
    """
    if np.isnan(scores).any():
        raise TrainingError(
            "a score is NaN: the model diverged; train with a lower --learning-rate"
        )
    index = np.broadcast_to(np.asarray(target)[..., np.newaxis], (*scores.shape[:-1], 1))
    target_score = np.take_along_axis(scores, index, axis=-1)  # [..., 1]
    num_above = np.count_nonzero(scores > target_score, axis=-1)
    num_tied = np.count_nonzero(scores == target_score, axis=-1) - 1
    return np.asarray(num_above + num_tied / 2, np.float64)


def ranks_of_first(scores: Scores) -> NDArray[np.float64]:
    """Rank candidate 0 of each row of `scores [U, C]`."""
    return rank_of_target(scores, 0)


def hit_rate(ranks: NDArray[np.float64], k: int) -> float:
    """Give the share of targets among the first `k`."""
    return float(np.mean(ranks < k))


def ndcg(ranks: NDArray[np.float64], k: int) -> float:
    """Give the mean discounted gain at `k`; with one target the ideal gain is 1."""
    return float(np.mean(np.where(ranks < k, 1 / np.log2(ranks + 2), 0)))
