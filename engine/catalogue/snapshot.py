"""The items that can be recommended, as they stand at one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Item ids, titles and vectors by item row."""

    version: str
    item_ids: Sequence[str]
    titles: Sequence[str]
    row_of_id: Mapping[str, int]
    item_vectors: NDArray[np.float32]  # [N, D]

    def __len__(self) -> int:
        return len(self.item_ids)
