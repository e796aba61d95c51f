"""Runs `recommend`: asks a running server, and prints what it answers."""

import argparse
import sys

from engine.commands.description import describe
from engine.request import RecommendRequest
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
