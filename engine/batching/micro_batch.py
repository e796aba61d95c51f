"""How large a micro-batch may be, and how prompts that are all at hand are split into some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from engine.bundle.manifest import Bucket, Manifest
from engine.config import BatcherConfig


@dataclass(frozen=True)
class Limits:
    """Of one micro-batch; those of a CPU unless said."""

    max_tokens: int = 2048
    """Rows x longest prompt."""
    max_prompts: int = 32
    buckets: Sequence[Bucket] = ()
    """On a GPU, one of which must hold it, so that it runs as a whole."""

    def allow(self, num_prompts: int, longest: int) -> bool:
        """Tell whether so many prompts may be encoded together; a single one always may."""
        if num_prompts == 1:
            return True
        if num_prompts > self.max_prompts or num_prompts * longest > self.max_tokens:
            return False
        return not self.buckets or any(
            bucket.max_batch_size >= num_prompts and bucket.max_tokens >= longest
            for bucket in self.buckets
        )


def choose_limits(config: BatcherConfig, manifest: Manifest) -> Limits:
    """Give what is configured, and else what a bundle for a GPU was made ready for."""
    buckets = manifest.plan.buckets if manifest.plan is not None else manifest.buckets
    if buckets is msgspec.UNSET:
        usual = Limits()
    else:
        usual = Limits(
            max_tokens=max(bucket.max_batch_size * bucket.max_tokens for bucket in buckets),
            max_prompts=max(bucket.max_batch_size for bucket in buckets),
            buckets=tuple(buckets),
        )
    return Limits(
        max_tokens=config.max_batch_tokens or usual.max_tokens,
        max_prompts=config.max_batch_size or usual.max_prompts,
        buckets=usual.buckets,
    )


def split(lengths: Sequence[int], limits: Limits) -> Iterator[list[int]]:
    """Give indices in micro-batches of similar length within the limits."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not limits.allow(len(batch) + 1, lengths[index]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
