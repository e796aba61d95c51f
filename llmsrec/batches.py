"""Batches of prompts of similar length, so that little of them is padding."""

from collections.abc import Callable, Iterator, Sequence


def split_by_length(
    lengths: Sequence[int], fits: Callable[[int, int], bool]
) -> Iterator[list[int]]:
    """Give indices in batches, the shortest prompts first.

    `fits(num_prompts, longest)` tells which prompts may share a batch; a single one always may.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and not fits(len(batch) + 1, lengths[index]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
