"""Softmax over a whole catalogue, or over a sample that stands for it."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


class Candidates(NamedTuple):
    """The items that a step of a training ranks."""

    rows: NDArray[np.int64]  # [C], ascending
    is_drawn: NDArray[np.bool_]  # [C], whether as a rival, and not as a target alone
    log_weight: float
    """What a rival's score gains, because it stands for those that were not drawn."""


def draw_candidates(
    targets: NDArray[np.int64], num_items: int, num_drawn: int, rng: np.random.Generator
) -> Candidates:
    """Take the whole catalogue, or draw some and add the targets.

    The weight makes the sum over drawn rivals that over the whole catalogue, on average.
    """
    if num_items <= num_drawn:
        return Candidates(np.arange(num_items), np.ones(num_items, bool), 0.0)
    drawn = rng.choice(num_items, num_drawn, replace=False)
    rows = np.union1d(drawn, targets)
    return Candidates(rows, np.isin(rows, drawn), float(np.log(num_items / num_drawn)))


def softmax_loss(
    scores: Tensor, targets: NDArray[np.int64], had: Tensor, candidates: Candidates
) -> Tensor:
    """Give the mean cross-entropy of `targets [P]`, item rows, by `scores [P, C]`.

    `had [P, C] bool` tells which candidates are no rivals: what the user is known to have.
    """
    device = scores.device
    places = torch.from_numpy(np.searchsorted(candidates.rows, targets))[:, None].to(device)
    own = scores.gather(1, places)  # [P, 1]
    hidden = had | torch.from_numpy(~candidates.is_drawn).to(device)
    rivals = (scores + candidates.log_weight).masked_fill(hidden, -torch.inf)
    return functional.cross_entropy(rivals.scatter(1, places, own), places[:, 0])
