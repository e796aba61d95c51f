"""How a server batches, as its answers tell: sizes of micro-batches, padding, tokens served."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from llmsrec.v1 import recommender_pb2 as pb


class BatchSize(msgspec.Struct, frozen=True, kw_only=True):
    """The micro-batches of one size."""

    num_prompts: int
    num_batches: float
    """A fraction where only some of a micro-batch's answers were measured."""
    padding_share: float
    """A share of the tokens that their rows were padded to."""


class Batches(msgspec.Struct, frozen=True, kw_only=True):
    mean_prompts: float
    padding_share: float
    """A share of all padded tokens."""
    tokens_per_s: float
    """Tokens of prompts, without padding."""
    sizes: list[BatchSize]


def summarise_batches(replies: Iterable[pb.RecommendResponse], duration_s: float) -> Batches | None:
    """Give the figures of answers that came within `duration_s`; None where none told.

    An answer tells of one row, and a micro-batch of n prompts gives n answers; so each row stands
    for 1/n of a micro-batch, and all rows together for each micro-batch once.
    """
    num_rows, num_tokens, num_padded_tokens = Counter[int](), Counter[int](), Counter[int]()
    for reply in replies:
        batch = reply.micro_batch
        if batch.num_prompts:  # an older server does not tell
            num_rows[batch.num_prompts] += 1
            num_tokens[batch.num_prompts] += reply.num_prompt_tokens
            num_padded_tokens[batch.num_prompts] += batch.longest_prompt_tokens
    if not num_rows:
        return None
    sizes = [
        BatchSize(
            num_prompts=size,
            num_batches=num_rows[size] / size,
            padding_share=1 - num_tokens[size] / num_padded_tokens[size],
        )
        for size in sorted(num_rows)
    ]
    return Batches(
        mean_prompts=num_rows.total() / sum(size.num_batches for size in sizes),
        padding_share=1 - num_tokens.total() / num_padded_tokens.total(),
        tokens_per_s=num_tokens.total() / duration_s,
        sizes=sizes,
    )
