"""What encoders and rankers take and give, free of what a request or its reply holds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.sizes import Size
from llmsrec.prompt import USER_READOUT_SLOT

Ranking = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Item rows and their scores, best first."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered prompt; its last position is the readout."""

    token_ids: NDArray[np.int32]  # [T]
    slot_ids: NDArray[np.int32]  # [T], as `llmsrec.prompt` defines them

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Search:
    """What to rank the catalogue for, besides a user vector."""

    k: int
    excluded_rows: NDArray[np.int32]  # [E], sorted and unique


@dataclass(frozen=True, slots=True)
class Query:
    """One user's part of a micro-batch."""

    prompt: Prompt
    search: Search


def fill(size: Size) -> list[Prompt]:
    """Give as many and as long prompts as a size holds, to warm it up or to time it."""
    slot_ids = np.zeros(size.num_tokens, np.int32)
    slot_ids[0], slot_ids[-1] = 1, USER_READOUT_SLOT
    return [Prompt(np.zeros_like(slot_ids), slot_ids)] * size.num_prompts


FIRST_SEARCH = Search(k=1, excluded_rows=np.empty(0, np.int32))
"""Warms a ranking up."""
