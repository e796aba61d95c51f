"""The losses are the published formulas, and train everything but the LLM and the teacher."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from llmsrec import losses, prompt
from llmsrec.model import COLLABORATIVE_DIM, VECTOR_DIM, Heads, LLMSRec, head
from llmsrec.tokens import PromptArrays

Matrix = NDArray[np.float64]
NUM_ITEMS = 6


def draw(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(shape).normal(size=shape))


def as_units(vectors: Matrix) -> Matrix:
    units: Matrix = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units


def retrieval(users: Matrix, items: Matrix) -> float:
    """The mean of -log of the target's share of exp(score)."""
    total = 0.0
    for user, candidates in zip(users, items, strict=True):
        scores = np.exp([user @ item for item in candidates])
        total -= np.log(scores[0] / scores.sum())
    return total / len(users)


def uniformity(units: Matrix) -> float:
    terms = [
        np.exp(-2 * np.sum((units[i] - units[j]) ** 2)) for i in range(len(units)) for j in range(i)
    ]
    return float(np.mean(terms))


@pytest.mark.parametrize("num_users", [1, 2, 7])
def test_retrieval_is_the_cross_entropy_of_inner_products(num_users: int) -> None:
    users, items = draw(num_users, 5), draw(num_users, 4, 5)
    expected = retrieval(users.numpy(), items.numpy())
    assert losses.retrieval_loss(users, items).item() == pytest.approx(expected)


def test_retrieval_reads_the_target_in_front() -> None:
    users = torch.eye(2)
    items = torch.stack([torch.eye(2) * 9, torch.eye(2).flip(0) * 9])  # [B, C, D]
    assert losses.retrieval_loss(users, items).item() < 1e-3
    assert losses.retrieval_loss(users, items.flip(1)).item() > 8


def test_distillation_is_the_mean_over_batch_and_width() -> None:
    users, teachers = draw(3, 5), draw(3, 5) + 1
    expected = np.sum((users - teachers).numpy() ** 2) / (3 * 5)
    assert losses.distillation_loss(users, teachers).item() == pytest.approx(expected)


@pytest.mark.parametrize("num_vectors", [2, 3, 8])
def test_uniformity_is_the_mean_over_pairs_without_a_logarithm(num_vectors: int) -> None:
    units = as_units(draw(num_vectors, 5).numpy())
    found = losses.uniformity_loss(torch.from_numpy(units)).item()
    assert found == pytest.approx(uniformity(units))


def test_single_vector_is_uniform() -> None:
    assert losses.uniformity_loss(draw(1, 5)).item() == 0


def test_uniformity_of_equal_vectors_is_one_and_its_gradient_finite() -> None:
    vectors = torch.ones(2, 5, requires_grad=True)
    loss = losses.uniformity_loss(vectors)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 1
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def test_training_loss_is_the_unweighted_sum() -> None:
    users, items, teachers = draw(4, 5) * 3, draw(4, 4, 5), draw(4, 5) / 3
    unit_users, unit_teachers = as_units(users.numpy()), as_units(teachers.numpy())
    expected = (
        retrieval(users.numpy(), items.numpy())
        + np.mean((unit_users - unit_teachers) ** 2)
        + uniformity(unit_users)
        + uniformity(unit_teachers)
    )
    assert losses.training_loss(users, items, teachers).item() == pytest.approx(expected)


def random_model() -> LLMSRec:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    heads = Heads(config.hidden_size)
    table = torch.randn(NUM_ITEMS, COLLABORATIVE_DIM)
    return LLMSRec(LlamaModel(config).eval(), heads, table)


def random_prompt(seed: int, readout: int) -> PromptArrays:
    rng = np.random.default_rng(seed)
    slot_ids = np.array([0, rng.integers(1, NUM_ITEMS + 1), 0, 0, readout], np.int32)
    return rng.integers(0, 20, 5, np.int32), slot_ids


def test_gradient_flows_into_all_that_is_trained_and_into_nothing_else() -> None:
    model = random_model()
    teacher_head = head(COLLABORATIVE_DIM, VECTOR_DIM, VECTOR_DIM, nn.GELU())
    users = model.user_vectors([random_prompt(seed, prompt.USER_READOUT_SLOT) for seed in (1, 2)])
    items = model.item_vectors([random_prompt(seed, prompt.ITEM_READOUT_SLOT) for seed in range(8)])
    teachers = teacher_head(torch.randn(2, COLLABORATIVE_DIM))
    loss = losses.training_loss(users, items.view(2, 4, VECTOR_DIM), teachers)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, trained in [*model.heads.named_parameters(), *teacher_head.named_parameters()]:
        assert trained.grad is not None, name
        assert trained.grad.abs().max() > 0, name
    assert [name for name, frozen in model.llm.named_parameters() if frozen.grad is not None] == []
    assert not model.item_table.requires_grad
