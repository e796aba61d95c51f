"""Token ids of the pieces that prompts are made of, tokenised when a bundle is built."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Ragged(NamedTuple):
    """Rows of different lengths in one array."""

    ids: NDArray[np.int32]  # [M]
    offsets: NDArray[np.int64]  # [R + 1]

    @classmethod
    def pack(cls, rows: Iterable[Sequence[int]]) -> "Ragged":
        listed = list(rows)
        offsets = np.cumsum([0, *map(len, listed)], dtype=np.int64)
        ids = np.fromiter((value for row in listed for value in row), np.int32, offsets[-1])
        return cls(ids, offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def length(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])


class Fragments(NamedTuple):
    """Every piece of every user prompt over one catalogue."""

    numbers: Ragged  # [MAX_INTERACTIONS] entry openings; the first holds the prompt's opening
    dates: Ragged  # [1 + days]; row 0 stands for a missing timestamp, row 1 for 1970-01-01
    titles: Ragged  # [N]
    clipped_titles: Ragged  # [N]
    closing: Ragged  # [1]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for name, ragged in self._asdict().items():
            arrays[f"{name}.ids"], arrays[f"{name}.offsets"] = ragged
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Fragments":
        return cls(
            *(Ragged(arrays[f"{name}.ids"], arrays[f"{name}.offsets"]) for name in cls._fields)
        )
