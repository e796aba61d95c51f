"""Lays prompts side by side in the arrays that the encoder graph reads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.request import Prompt


class PackedPrompts(NamedTuple):
    """The graph's inputs, by their names; padding is on the right, after the readout."""

    input_ids: NDArray[np.int64]  # [B, T]
    slot_ids: NDArray[np.int64]  # [B, T]
    readout_position: NDArray[np.int64]  # [B]


def pack(prompts: Sequence[Prompt]) -> PackedPrompts:
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)  # [B]
    input_ids = np.zeros((len(prompts), lengths.max()), np.int64)  # [B, T]
    slot_ids = np.zeros_like(input_ids)  # [B, T]
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt)] = prompt.token_ids
        slot_ids[row, : len(prompt)] = prompt.slot_ids
    return PackedPrompts(input_ids, slot_ids, lengths - 1)
