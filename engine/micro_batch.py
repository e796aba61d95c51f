"""How large a micro-batch may be, and how prompts that are all at hand are split into some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from engine.config import BatcherConfig
from engine.manifest import Manifest


@dataclass(frozen=True)
class Limits:
    """Of one micro-batch; those of a CPU unless said. A single prompt always fits."""

    max_tokens: int = 2048
    """Rows x longest prompt."""
    max_prompts: int = 32


def choose_limits(config: BatcherConfig, manifest: Manifest) -> Limits:
    """Give what is configured, and else what a bundle for a GPU was made ready for."""
    buckets = manifest.plan.buckets if manifest.plan is not None else manifest.buckets
    usual = Limits()
    if buckets is not msgspec.UNSET:
        usual = Limits(
            max_tokens=max(bucket.max_batch_size * bucket.max_tokens for bucket in buckets),
            max_prompts=max(bucket.max_batch_size for bucket in buckets),
        )
    return Limits(
        max_tokens=config.max_batch_tokens or usual.max_tokens,
        max_prompts=config.max_batch_size or usual.max_prompts,
    )


def split(lengths: Sequence[int], limits: Limits) -> Iterator[list[int]]:
    """Give indices in micro-batches of similar length within the limits."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = (len(batch) + 1) * lengths[index]
        if batch and (padded > limits.max_tokens or len(batch) == limits.max_prompts):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
