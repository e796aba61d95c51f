"""The three losses of LLM-SRec, all with weight 1."""

import torch
from torch import Tensor
from torch.nn import functional


def retrieval_loss(users: Tensor, items: Tensor) -> Tensor:
    """Softmax cross-entropy of inner products; `users [B, D]`, `items [B, C, D]`, target first."""
    scores = torch.einsum("bd,bcd->bc", users, items)  # [B, C]
    return functional.cross_entropy(scores, users.new_zeros(len(users), dtype=torch.long))


def distillation_loss(users: Tensor, teachers: Tensor) -> Tensor:
    """Mean squared error between unit vectors, both `[B, D]`."""
    return functional.mse_loss(users, teachers)


def uniformity_loss(vectors: Tensor) -> Tensor:
    """Mean over pairs of exp(-2 |x - y|^2) for unit vectors `[B, D]`; 0 for a single one."""
    if len(vectors) < 2:
        return vectors.new_zeros(())
    return torch.pdist(vectors).pow(2).mul(-2).exp().mean()


def representation_loss(users: Tensor, teachers: Tensor) -> Tensor:
    """Pull users towards their teachers and all apart; both `[B, D]`, of any length."""
    unit_users = functional.normalize(users, dim=-1)
    unit_teachers = functional.normalize(teachers, dim=-1)
    return (
        distillation_loss(unit_users, unit_teachers)
        + uniformity_loss(unit_users)
        + uniformity_loss(unit_teachers)
    )


def training_loss(users: Tensor, items: Tensor, teachers: Tensor) -> Tensor:
    """Sum the losses of one batch: `users [B, D]`, `items [B, C, D]`, `teachers [B, D]`."""
    return retrieval_loss(users, items) + representation_loss(users, teachers)
