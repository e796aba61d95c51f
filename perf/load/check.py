"""Holds answers of a run to those that the bundle gives without a server, once the clock stands."""

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from engine.bundle.opened import open_bundle
from engine.errors import BackendUnavailable, PlanError
from llmsrec.progress import track
from llmsrec.v1 import recommender_pb2 as pb
from perf.answers import require_rankings, tolerance_of
from perf.engine_access import Engine, ranked_items, read_message
from perf.load.client import SentRequest

MAX_CHECKED = 64
"""Spread over the run; each takes a forward."""


def check_answers(path: Path | None, sent: Sequence[SentRequest]) -> str:
    """Say how many were compared, or why none could be.

    Raises:
        WrongAnswer: one of them is not what the bundle gives.
    """
    if path is None:
        return "not checked: no --bundle was given"
    chosen = choose(sent)
    bundle = open_bundle(path)
    tolerance = tolerance_of(bundle.manifest.encoder.precision)
    try:
        with closing(Engine(bundle)) as engine:
            for each in track(chosen, "checking"):
                query = engine.render(read_message(each.message))
                expected = engine.rank([query], engine.encode([query.prompt]))
                found = ranked_items(pb.RecommendResponse.FromString(each.reply))
                require_rankings("the server", [found], expected, tolerance)
    except (BackendUnavailable, PlanError) as error:
        return f"not checked: this machine cannot run the bundle ({error})"
    return f"{len(chosen)} compared with the bundle's own"


def choose(sent: Sequence[SentRequest]) -> Sequence[SentRequest]:
    answers = [each for each in sent if not each.status]
    return answers[:: math.ceil(len(answers) / MAX_CHECKED) or 1]
