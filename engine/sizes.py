"""Sizes: the padded shapes in which prompts are encoded together, and who shares one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import msgspec

from engine.config import BatcherConfig
from engine.errors import EncodingFailed
from llmsrec.batches import split_by_length

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The padded shape of one forward: an optimization profile, a CUDA graph, a micro-batch."""

    num_prompts: Positive
    num_tokens: Positive
    """The length of each prompt, padding included."""

    @property
    def num_padded_tokens(self) -> int:
        return self.num_prompts * self.num_tokens

    def holds(self, num_prompts: int, longest: int) -> bool:
        return self.num_prompts >= num_prompts and self.num_tokens >= longest

    def __str__(self) -> str:
        return f"{self.num_prompts} prompts of {self.num_tokens} tokens"


class SizedBatch(NamedTuple):
    """Indices of the prompts to encode together, and the size to do it in."""

    members: list[int]
    size: Size


@dataclass(frozen=True)
class SizeLimits:
    """Decides which prompts may be encoded together, and in which size; a CPU's unless said."""

    max_prompts: int = 32
    max_padded_tokens: int = 2048
    """The most tokens of a size, padding included; a single prompt may take more."""
    ready: Sequence[Size] = ()
    """The sizes that an encoder was made ready for, the smaller first; one without any takes
    every size."""

    def choose(self, num_prompts: int, longest: int) -> Size | None:
        """Give the smallest size that holds the prompts; None where they may not share one."""
        size: Size | None = Size(num_prompts, longest)
        if self.ready:
            holding = (each for each in self.ready if each.holds(num_prompts, longest))
            size = next(holding, None)
        if size is None or num_prompts == 1:
            return size
        is_within = num_prompts <= self.max_prompts
        return size if is_within and size.num_padded_tokens <= self.max_padded_tokens else None

    def require(self, num_prompts: int, longest: int) -> Size:
        """Give what `choose` gives.

        Raises:
            EncodingFailed: no size holds the prompts.
        """
        size = self.choose(num_prompts, longest)
        if size is None:
            raise EncodingFailed(f"no size of the bundle holds a prompt of {longest} tokens")
        return size

    def split(self, lengths: Sequence[int]) -> Iterator[SizedBatch]:
        """Split prompts that are all at hand into micro-batches of similar length.

        Raises:
            EncodingFailed: no size holds the longest prompt.
        """
        for members in split_by_length(lengths, lambda *shape: self.choose(*shape) is not None):
            yield SizedBatch(members, self.require(len(members), lengths[members[-1]]))


def choose_limits(config: BatcherConfig, ready: Sequence[Size]) -> SizeLimits:
    """Give the configured limits, and else what an encoder was made ready for."""
    usual = SizeLimits()
    if ready:
        usual = SizeLimits(
            max_prompts=max(size.num_prompts for size in ready),
            max_padded_tokens=max(size.num_padded_tokens for size in ready),
            ready=tuple(sorted(ready, key=lambda size: size.num_padded_tokens)),
        )
    return SizeLimits(
        max_prompts=config.max_batch_size or usual.max_prompts,
        max_padded_tokens=config.max_batch_tokens or usual.max_padded_tokens,
        ready=usual.ready,
    )


def sizes_within(largest: Sequence[Size]) -> list[Size]:
    """Give the sizes to make ready within the largest ones, the shorter and then smaller first.

    They are, for each largest one, its halves down to one prompt and three quarters of each, so
    that at least two thirds of the prompts of a size were asked for.
    """
    shapes = set()
    for size in largest:
        whole = size.num_prompts
        while whole > 0:
            shapes |= {(size.num_tokens, whole), (size.num_tokens, whole * 3 // 4 or 1)}
            whole //= 2
    return [Size(num_prompts, num_tokens) for num_tokens, num_prompts in sorted(shapes)]
