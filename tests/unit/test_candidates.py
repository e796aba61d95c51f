"""A sample of the catalogue stands for the whole of it; what a user had is no rival."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmsrec.candidates import Candidates, draw_candidates, softmax_loss


def test_whole_catalogue_is_ranked_where_it_is_small() -> None:
    found = draw_candidates(np.array([3]), 10, 10, np.random.default_rng(0))
    assert found.rows.tolist() == list(range(10))
    assert found.is_drawn.all()
    assert found.log_weight == 0


def test_rivals_that_were_drawn_stand_for_all_on_average() -> None:
    worth = np.exp(np.random.default_rng(0).normal(size=1000))
    rng, sums = np.random.default_rng(1), []
    for _ in range(400):
        found = draw_candidates(np.array([3, 5]), len(worth), 100, rng)
        assert set(found.rows.tolist()) >= {3, 5}
        sums.append(np.exp(found.log_weight) * worth[found.rows[found.is_drawn]].sum())
    assert np.mean(sums) == pytest.approx(worth.sum(), rel=0.02)


def test_loss_is_that_of_the_softmax_over_target_and_weighted_rivals() -> None:
    rows = np.array([1, 4, 6, 9])  # 9 is there as the second's target alone
    candidates = Candidates(rows, np.array([True, True, True, False]), 0.5)
    scores = torch.randn(2, 4)
    had = torch.tensor([[False, True, False, False], [False, False, False, True]])
    loss = softmax_loss(scores, np.array([4, 9]), had, candidates)
    first = torch.stack([scores[0, 1], scores[0, 0] + 0.5, scores[0, 2] + 0.5])
    second = torch.cat([scores[1, 3:], scores[1, :3] + 0.5])
    expected = [functional.cross_entropy(each, torch.tensor(0)) for each in (first, second)]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
