"""Lays prompts side by side in the arrays that the encoder graph reads."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.query import Prompt
from engine.sizes import Size


class GraphInputs(NamedTuple):
    """The graph's inputs, by their names; padding is on the right, after the readout."""

    input_ids: NDArray[np.int64]  # [B, T]
    slot_ids: NDArray[np.int64]  # [B, T]
    readout_position: NDArray[np.int64]  # [B]

    @classmethod
    def of_size(cls, size: Size) -> "GraphInputs":
        shape = size.num_prompts, size.num_tokens
        return cls(
            np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape[0], np.int64)
        )


def pack(prompts: Sequence[Prompt], size: Size) -> GraphInputs:
    packed = GraphInputs.of_size(size)
    pack_into(packed, prompts)
    return packed


def pack_into(arrays: GraphInputs, prompts: Sequence[Prompt]) -> None:
    """Overwrite arrays that are as large or larger; rows without a prompt hold one token."""
    for array in arrays:
        array.fill(0)
    for row, prompt in enumerate(prompts):
        arrays.input_ids[row, : len(prompt)] = prompt.token_ids
        arrays.slot_ids[row, : len(prompt)] = prompt.slot_ids
        arrays.readout_position[row] = len(prompt) - 1
