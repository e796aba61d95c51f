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
    shape = len(prompts), max(len(prompt) for prompt in prompts)
    ids, slots = np.empty(shape, np.int64), np.empty(shape, np.int64)  # [B, T] each
    packed = PackedPrompts(ids, slots, np.empty(len(prompts), np.int64))
    pack_into(packed, prompts)
    return packed


def pack_into(arrays: PackedPrompts, prompts: Sequence[Prompt]) -> None:
    """Overwrite arrays that are as large or larger; rows without a prompt hold one token."""
    for array in arrays:
        array.fill(0)
    for row, prompt in enumerate(prompts):
        arrays.input_ids[row, : len(prompt)] = prompt.token_ids
        arrays.slot_ids[row, : len(prompt)] = prompt.slot_ids
        arrays.readout_position[row] = len(prompt) - 1
