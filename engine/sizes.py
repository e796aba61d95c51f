"""Assigns the prompts of a micro-batch to the sizes that a GPU backend has made ready."""

from collections.abc import Iterator, Sequence

import numpy as np

from engine.bundle.manifest import Bucket
from engine.errors import EncodingFailed
from engine.request import Prompt, Query
from llmsrec.prompt import USER_READOUT_SLOT


def assign(prompts: Sequence[Prompt], buckets: Sequence[Bucket]) -> Iterator[tuple[int, slice]]:
    """Split a micro-batch into parts, each with the smallest bucket that holds it.

    Raises:
        EncodingFailed: no bucket holds the longest prompt.
    """
    longest = max(len(prompt) for prompt in prompts)
    fitting = [place for place, bucket in enumerate(buckets) if bucket.max_tokens >= longest]
    if not fitting:
        raise EncodingFailed(f"no bucket of the bundle holds a prompt of {longest} tokens")
    start = 0
    while start < len(prompts):
        num_left = len(prompts) - start
        place = min(fitting, key=lambda place: _fit(buckets[place], num_left))
        part = slice(start, start + min(num_left, buckets[place].max_batch_size))
        yield place, part
        start = part.stop


def sizes_within(buckets: Sequence[Bucket]) -> list[Bucket]:
    """Give the sizes to make ready within the largest ones, the shorter and then smaller first.

    They are, for each largest one, its halves down to one prompt and three quarters of each, so
    that at least two thirds of the prompts of a size were asked for.
    """
    sizes = set()
    for bucket in buckets:
        whole = bucket.max_batch_size
        while whole > 0:
            sizes |= {(bucket.max_tokens, whole), (bucket.max_tokens, whole * 3 // 4 or 1)}
            whole //= 2
    return [Bucket(max_batch_size, max_tokens) for max_tokens, max_batch_size in sorted(sizes)]


SHORT_QUERY = Query(
    prompt=Prompt(np.zeros(2, np.int32), np.array([1, USER_READOUT_SLOT], np.int32)),
    k=1,
    excluded_rows=np.empty(0, np.int32),
    ignored=(),
    num_used_interactions=1,
    render_ms=0.0,
)
"""Warms a ranking up."""


def fill(bucket: Bucket) -> list[Prompt]:
    """Give as many and as long prompts as a bucket holds, to warm it up."""
    slot_ids = np.zeros(bucket.max_tokens, np.int32)
    slot_ids[0], slot_ids[-1] = 1, USER_READOUT_SLOT
    return [Prompt(np.zeros_like(slot_ids), slot_ids)] * bucket.max_batch_size


def _fit(bucket: Bucket, num_prompts: int) -> tuple[int, int]:
    """Rank buckets: those that hold most of the prompts first, then the smaller ones."""
    held = min(num_prompts, bucket.max_batch_size)
    return -held, bucket.max_batch_size * bucket.max_tokens
