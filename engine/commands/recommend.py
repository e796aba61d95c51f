"""Runs `recommend`: asks a running server and lays its answer out."""

import argparse
import sys

from engine.request import Recommendation, RecommendRequest
from engine.rpc.client import recommend


def run(options: argparse.Namespace) -> None:
    request = RecommendRequest(
        history=options.history,
        k=options.k,
        include_seen=options.include_seen,
        excluded_item_ids=options.exclude,
    )
    answer = recommend(options.address, request, timeout_s=options.timeout)
    lines = describe(answer, len(request.history))
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def describe(answer: Recommendation, num_interactions: int) -> list[str]:
    """Lay an answer out as lines: the ranking, timings, versions and what was ignored."""
    width = max([len("id"), *(len(item.item_id) for item in answer.items)])
    lines = [f"rank     score  {'id':<{width}}  title"]
    for rank, item in enumerate(answer.items, start=1):
        lines.append(f"{rank:>4}  {item.score:>8.4f}  {item.item_id:<{width}}  {item.title}")
    timings = answer.timings
    lines += [
        "",
        f"render {timings.render_ms:.2f} ms, queue {timings.queue_ms:.2f} ms, "
        f"encode {timings.encode_ms:.2f} ms, retrieve {timings.retrieve_ms:.2f} ms, "
        f"total {timings.total_ms:.2f} ms",
        f"model {answer.model_version}, catalogue {answer.catalogue_version}",
        f"used {answer.num_used_interactions} of {num_interactions} interactions",
    ]
    if (batch := answer.micro_batch) is not None:
        lines.append(
            f"prompt of {answer.num_prompt_tokens} tokens, one of {batch.num_prompts} encoded"
            f" together, the longest of {batch.longest_prompt_tokens} tokens"
        )
    lines += [f"ignored {i.index}: {i.item_id} ({i.reason.value})" for i in answer.ignored]
    num_unlisted = num_interactions - answer.num_used_interactions - len(answer.ignored)
    return [*lines, f"ignored {num_unlisted} more"] if num_unlisted > 0 else lines
