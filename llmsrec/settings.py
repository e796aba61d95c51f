"""What trainings take: settings that make a result what it is, and limits that only end it."""

from typing import Annotated, Literal

import msgspec

SMOLLM2 = "smollm2-135m"
"""The name of the LLM that is taken out of its package."""
LLM_PRECISIONS = ("bf16", "fp32")
"""Number formats of a frozen LLM."""
Positive = Annotated[int, msgspec.Meta(ge=1)]
SasrecLoss = Literal["bce", "softmax"]


class SasrecSettings(msgspec.Struct, frozen=True, kw_only=True):
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    batch_size: Positive = 128
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    validate_every: Positive = 5
    """Epochs between two validations."""
    loss: SasrecLoss = "bce"
    """Of each next item against one drawn item, or by a softmax over the catalogue."""
    candidates: Positive = 4096
    """Items that a softmax ranks, its targets apart; a smaller catalogue is ranked whole."""


class SasrecLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop; unlike the settings they may change when a training is resumed."""

    epochs: Positive = 400
    patience: Positive = 10
    """Validations without a gain in NDCG@10 before the training stops."""


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    learning_rate: float = 1e-4
    batch_size: int = 20
    precision: str = "bf16"
    """The frozen LLM's number format, bf16 or fp32; the heads train in fp32."""
    num_validation_users: int = 0
    """The first so many users choose the best epoch; 0 takes all."""
    seed: int = 0


class TrainLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop; unlike the settings they may change when a training is resumed."""

    epochs: int = 10
    patience: int = 3
    """Validations without a gain in HR@10 before the training stops."""


class RefineSettings(msgspec.Struct, frozen=True, kw_only=True):
    windows: int = 3
    """Windows read out of each user's training part, the newest first."""
    precision: str = "bf16"
    """The frozen LLM's number format, bf16 or fp32; the heads train in fp32."""
    learning_rate: float = 1e-3
    batch_size: int = 256
    candidates: int = 4096
    """Items that a step ranks, its targets apart; a smaller catalogue is ranked whole."""
    epochs: int = 60
    patience: int = 8
    """Epochs without a gain in validation HR@10 before the training stops."""
    seed: int = 0


class SegmentsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of a training over item segments; its learning rate falls to nothing over all epochs."""

    num_layers: Positive = 8
    """First layers of the LLM that are run."""
    window: Positive = 50
    """The newest interactions that are read out."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.01
    batch_size: Positive = 32
    """Windows of one step, one of each user an epoch."""
    candidates: Positive = 4096
    """Items that a step ranks, its targets apart; a smaller catalogue is ranked whole."""
    epochs: Positive = 10
    precision: str = "fp32"
    """The frozen LLM's number format, bf16 or fp32; the heads train in fp32."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
