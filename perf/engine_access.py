"""What the measurements use of the engine's inside, all in one place."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine import Interaction, Recommender, RecommendRequest
from engine.bundle.manifest import Bucket
from engine.bundle.opened import Bundle
from engine.config import Config, EncoderConfig
from engine.pipelines.open import open_ranker
from engine.prompts.join import render
from engine.ranking.cpu import retrieve
from engine.request import Prompt, Query
from engine.rpc.wire import decode_request
from engine.sizes import fill
from llmsrec.encoding import History
from llmsrec.v1 import recommender_pb2 as pb
from perf.answers import Ranked, Vectors

Encode = Callable[[Sequence[Prompt]], Vectors]
"""Gives the user vectors `[B, D]` of one micro-batch."""


class Engine(NamedTuple):
    """An open bundle without a server."""

    bundle: Bundle
    encode: Encode
    render: Callable[[RecommendRequest], Query]
    close: Callable[[], None]

    def rank(self, queries: Sequence[Query], vectors: Vectors) -> list[Ranked]:
        """Rank the catalogue for each user vector, by item id."""
        excluded_rows = [query.excluded_rows for query in queries]
        counts = [query.k for query in queries]
        rankings = retrieve(vectors, self.bundle.item_vectors, excluded_rows, counts, num_threads=1)
        ids = self.bundle.item_ids
        return [([ids[row] for row in rows], scores.tolist()) for rows, scores in rankings]


def open_engine(bundle: Bundle, num_threads: int = 0) -> Engine:
    config = Config(encoder=EncoderConfig(num_threads=num_threads))
    ranker = open_ranker(bundle, config)
    recommender = Recommender(bundle, ranker, config)
    return Engine(
        bundle=bundle,
        encode=lambda prompts: ranker.encode(prompts, "user_vector"),
        render=recommender.render,
        close=recommender.close,
    )


def make_prompts(num_users: int, num_tokens: int) -> list[Prompt]:
    """Give equal prompts of one length."""
    return fill(Bucket(num_users, num_tokens))


def render_history(bundle: Bundle, history: History) -> Prompt:
    return render(bundle.fragments, *history)[0]


def as_interactions(bundle: Bundle, history: History) -> list[Interaction]:
    return [
        Interaction(bundle.item_ids[row], time_ms) for row, time_ms in zip(*history, strict=True)
    ]


def read_message(message: bytes) -> RecommendRequest:
    return decode_request(pb.RecommendRequest.FromString(message))


def ranked_items(reply: pb.RecommendResponse) -> Ranked:
    return [item.item_id for item in reply.items], [item.score for item in reply.items]
