"""Splits prompts that are all at hand into micro-batches with little padding."""

from collections.abc import Iterator, Sequence

from engine.config import BatcherConfig


def split(lengths: Sequence[int], config: BatcherConfig) -> Iterator[list[int]]:
    """Give indices in micro-batches of similar length within the token budget and size."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = (len(batch) + 1) * lengths[index]
        if batch and (padded > config.max_batch_tokens or len(batch) == config.max_batch_size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
