"""How a server batches, as its answers tell: sizes of micro-batches, padding, tokens served."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec


class BatchSize(msgspec.Struct, frozen=True, kw_only=True):
    """The micro-batches of one size."""

    num_prompts: int
    num_batches: float
    """A fraction where only some of a micro-batch's answers were measured."""
    padding_share: float
    """Of the tokens that their rows were padded to."""


class Batches(msgspec.Struct, frozen=True, kw_only=True):
    mean_prompts: float
    padding_share: float
    """Of all padded tokens, those that are padding."""
    tokens_per_s: float
    """Of prompts, without padding."""
    sizes: list[BatchSize]


@dataclass(slots=True)
class BatchTally:
    """Rows of micro-batches, counted by their micro-batch's size.

    An answer tells of one row, and a micro-batch of n prompts gives n answers; so each row stands
    for 1/n of a micro-batch, and all rows together for each micro-batch once.
    """

    num_rows: Counter[int] = field(default_factory=Counter)
    num_tokens: Counter[int] = field(default_factory=Counter)
    num_padded_tokens: Counter[int] = field(default_factory=Counter)

    def add(self, num_prompts: int, num_tokens: int, num_padded_tokens: int) -> None:
        self.num_rows[num_prompts] += 1
        self.num_tokens[num_prompts] += num_tokens
        self.num_padded_tokens[num_prompts] += num_padded_tokens

    def merge(self, other: "BatchTally") -> None:
        self.num_rows.update(other.num_rows)
        self.num_tokens.update(other.num_tokens)
        self.num_padded_tokens.update(other.num_padded_tokens)

    def summarise(self, duration_s: float) -> Batches | None:
        """Give the figures of answers that came within `duration_s`; None where none told."""
        if not self.num_rows:
            return None
        num_tokens = self.num_tokens.total()
        sizes = [
            BatchSize(
                num_prompts=size,
                num_batches=num_rows / size,
                padding_share=1 - self.num_tokens[size] / self.num_padded_tokens[size],
            )
            for size, num_rows in sorted(self.num_rows.items())
        ]
        return Batches(
            mean_prompts=self.num_rows.total() / sum(size.num_batches for size in sizes),
            padding_share=1 - num_tokens / self.num_padded_tokens.total(),
            tokens_per_s=num_tokens / duration_s,
            sizes=sizes,
        )
