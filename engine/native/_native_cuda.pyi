from typing import Literal

class TopKShape:
    def __init__(
        self,
        *,
        num_queries: int,
        num_items: int,
        dim: int,
        max_k: int,
        item_dtype: Literal["float32", "float16", "bfloat16"],
    ) -> None:
        """Describe `queries [B, D]`, `items [N, D]` and the places of a ranking, `max_k`.

        Raises:
            ValueError: a number is out of its range.
        """

    @property
    def workspace_bytes(self) -> int:
        """What a call needs; it suffices for a shape that is nowhere larger."""

def masked_topk(
    shape: TopKShape,
    *,
    queries: int,
    items: int,
    excluded_rows: int,
    excluded_offsets: int,
    k: int,
    rows: int,
    scores: int,
    workspace: int,
    workspace_bytes: int,
    stream: int,
) -> None:
    """Queue `_native.masked_topk` on a CUDA stream; every array is an address on the device.

    Reads `queries [B, D] float32`, the items, `excluded_rows [E] int32` and `k [B] int32`, and
    writes `rows [B, max_k] int32` and `scores [B, max_k] float32`, all bit for bit as the CPU's
    kernel does. `excluded_offsets [B + 1] int64` and `k` are trusted, k up to `max_k`. Neither
    waits nor allocates, so that a graph can capture it once it has run; two calls under way must
    not share a workspace.

    Raises:
        ValueError: an address or `workspace_bytes` is unfit.
        RuntimeError: the device cannot run it.
    """

def device_count() -> int:
    """Count the CUDA devices; 0 where there is no driver."""

def built_architectures() -> list[int]:
    """List the compute capabilities that it was compiled for, ascending; 900 is 9.0."""
