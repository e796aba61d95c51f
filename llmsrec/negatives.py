"""Uniform draws of item rows that an interaction sequence lacks."""

import numpy as np
from numpy.typing import NDArray


def draw_absent_rows(
    rng: np.random.Generator,
    present_rows: NDArray[np.int32] | NDArray[np.int64],
    num_items: int,
    size: tuple[int, ...],
) -> NDArray[np.int32]:
    """Draw rows of [0, num_items) not among `present_rows`, independently, so repeats occur.

    Raises:
        ValueError: no row is left.
    """
    present: NDArray[np.int64] = np.unique(present_rows).astype(np.int64)
    if len(present) >= num_items:
        raise ValueError(f"all {num_items} items are present, none is left to draw")
    ranks = rng.integers(num_items - len(present), size=size)
    num_absent_below = present - np.arange(len(present), dtype=np.int64)
    return (ranks + np.searchsorted(num_absent_below, ranks, side="right")).astype(np.int32)
