"""Item vectors in the precision in which a GPU holds them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.config import ItemPrecision
from engine.errors import ConfigError
from engine.ranking.cuda_topk import ItemDtype


class StoredItems(NamedTuple):
    stored: NDArray[np.generic]  # [N, D], bfloat16 as its 16 bits
    dtype: ItemDtype
    widened: NDArray[np.float32]
    """The very values that are stored, `[N, D]`, for what the CPU ranks."""


def store(item_vectors: NDArray[np.float32], precision: ItemPrecision) -> StoredItems:
    """Round item vectors `[N, D]` to a precision, to the nearest and ties to even.

    Raises:
        ConfigError: a value is beyond the precision's range.
    """
    if precision == "fp32":
        return StoredItems(item_vectors, "float32", item_vectors)
    if precision == "fp16":
        if np.abs(item_vectors).max(initial=0) > np.finfo(np.float16).max:
            raise ConfigError(
                "an item vector has a value beyond fp16's range; set retrieval.item_precision to"
                ' "bf16" or "fp32"'
            )
        halves = item_vectors.astype(np.float16)
        return StoredItems(halves, "float16", halves.astype(np.float32))
    bits = np.ascontiguousarray(item_vectors).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    widened = (rounded << 16).view(np.float32)
    return StoredItems(rounded.astype(np.uint16), "bfloat16", widened)
