import numpy as np
from numpy.typing import NDArray

def masked_topk(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    excluded_rows: NDArray[np.int32],
    excluded_offsets: NDArray[np.int64],
    k: NDArray[np.int32],
    num_threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank the rows of `items [N, D]` for each of `queries [B, D]` by inner product, exactly.

    `excluded_rows[excluded_offsets[b] : excluded_offsets[b + 1]]` are ascending and unique. Gives
    rows `[B, max(k)]` and scores, best first, ties by the lower row, padded with -1 and -inf. A
    NaN or -inf score never ranks. Releases the GIL, blocks, and keeps no reference.

    Raises:
        ValueError: an array is not C-contiguous or differs in dtype or shape.
    """
