"""Lays an answer out for a terminal."""

from collections.abc import Sequence

from engine.request import IgnoredInteraction, RankedItem, Recommendation
from llmsrec.terminal import printable


def describe(answer: Recommendation, num_interactions: int) -> list[str]:
    """Lay an answer out as lines: the ranking, timings, versions and what was ignored."""
    return [
        *_describe_items(answer.items),
        "",
        *_describe_work(answer, num_interactions),
        *_describe_ignored(answer.ignored, num_interactions - answer.num_used_interactions),
    ]


def _describe_items(items: Sequence[RankedItem]) -> list[str]:
    ids = [printable(item.item_id) for item in items]
    width = max(map(len, ["id", *ids]))
    lines = [f"rank     score  {'id':<{width}}  title"]
    for rank, (item, item_id) in enumerate(zip(items, ids, strict=True), start=1):
        title = printable(item.title)
        lines.append(f"{rank:>4}  {item.score:>8.4f}  {item_id:<{width}}  {title}")
    return lines


def _describe_work(answer: Recommendation, num_interactions: int) -> list[str]:
    timings = answer.timings
    lines = [
        f"render {timings.render_ms:.2f} ms, queue {timings.queue_ms:.2f} ms, "
        f"encode {timings.encode_ms:.2f} ms, retrieve {timings.retrieve_ms:.2f} ms, "
        f"total {timings.total_ms:.2f} ms",
        f"model {printable(answer.model_version)}, catalogue {printable(answer.catalogue_version)}",
        f"used {answer.num_used_interactions} of {num_interactions} interactions",
    ]
    if (batch := answer.micro_batch) is not None:
        lines.append(
            f"prompt of {answer.num_prompt_tokens} tokens, one of {batch.num_prompts} encoded"
            f" together, the longest of {batch.longest_prompt_tokens} tokens"
        )
    return lines


def _describe_ignored(listed: Sequence[IgnoredInteraction], num_ignored: int) -> list[str]:
    lines = [f"ignored {i.index}: {printable(i.item_id)} ({i.reason.value})" for i in listed]
    num_unlisted = num_ignored - len(listed)
    return [*lines, f"ignored {num_unlisted} more"] if num_unlisted > 0 else lines
