"""Splits prompts that are all at hand into batches of similar length, so that little is padding."""

from collections.abc import Callable, Iterator, Sequence


def split_by_length(
    lengths: Sequence[int], fits: Callable[[int, int], bool]
) -> Iterator[list[int]]:
    """Give the indices of `lengths`, shortest first, in batches that are as long as may be.

    `fits(num_prompts, longest)` tells whether so many prompts make a batch; it is never asked of
    a single one, which always does.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and not fits(len(batch) + 1, lengths[index]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
