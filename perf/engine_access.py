"""What the measurements use of the engine's inside, all in one place."""

from collections.abc import Callable, Sequence

import numpy as np

from engine import Interaction, RecommendRequest
from engine.bundle.opened import Bundle
from engine.config import BatcherConfig, Config, EncoderConfig
from engine.pipelines.open import open_pipeline
from engine.prompts.join import join
from engine.prompts.render import render
from engine.query import Prompt, Query, fill
from engine.ranking.cpu import CpuRanker
from engine.rpc.wire import decode_request
from engine.sizes import Size, choose_limits
from llmsrec.encoding import History
from llmsrec.v1 import recommender_pb2 as pb
from perf.answers import Ranked, Vectors

NUM_TEXTS = 64
"""Token ids that every vocabulary has."""
Encode = Callable[[Sequence[Prompt]], Vectors]
"""Gives the user vectors `[B, D]` of one micro-batch."""


class Engine:
    """An open bundle without a server."""

    def __init__(self, bundle: Bundle, num_threads: int = 0) -> None:
        config = Config(encoder=EncoderConfig(num_threads=num_threads))
        self.bundle = bundle
        self._pipeline = open_pipeline(bundle, config)
        self._limits = choose_limits(BatcherConfig(), self._pipeline.sizes)
        self._ranker = CpuRanker(bundle.catalogue.item_vectors, num_threads=1)

    def encode(self, prompts: Sequence[Prompt]) -> Vectors:
        """Give the user vectors `[B, D]` of prompts, in one forward where a size holds them."""
        longest = max(len(prompt) for prompt in prompts)
        if not self._pipeline.sizes:
            size = Size(len(prompts), longest)
            return self._pipeline.encode(prompts, size, "user_vector")
        vectors = np.empty((len(prompts), self.bundle.manifest.vector_dim), np.float32)
        for members, size in self._limits.split([len(prompt) for prompt in prompts]):
            batch = [prompts[index] for index in members]
            vectors[members] = self._pipeline.encode(batch, size, "user_vector")
        return vectors

    def render(self, request: RecommendRequest) -> Query:
        return render(request, self.bundle.catalogue, self.bundle.fragments).query

    def rank(self, queries: Sequence[Query], vectors: Vectors) -> list[Ranked]:
        """Rank the catalogue for each user vector, by item id."""
        ids = self.bundle.catalogue.item_ids
        rankings = self._ranker.rank(vectors, [query.search for query in queries])
        return [([ids[row] for row in rows], scores.tolist()) for rows, scores in rankings]

    def close(self) -> None:
        self._pipeline.close()


def make_prompts(num_users: int, num_tokens: int) -> list[Prompt]:
    """Give prompts of one length, each with a text of its own."""
    slot_ids = fill(Size(1, num_tokens))[0].slot_ids
    texts = [np.full(num_tokens, user % NUM_TEXTS, np.int32) for user in range(num_users)]
    return [Prompt(token_ids, slot_ids) for token_ids in texts]


def render_history(bundle: Bundle, history: History) -> Prompt:
    return join(bundle.fragments, *history)[0]


def as_interactions(bundle: Bundle, history: History) -> list[Interaction]:
    ids = bundle.catalogue.item_ids
    return [Interaction(ids[row], time_ms) for row, time_ms in zip(*history, strict=True)]


def read_message(message: bytes) -> RecommendRequest:
    return decode_request(pb.RecommendRequest.FromString(message))


def ranked_items(reply: pb.RecommendResponse) -> Ranked:
    return [item.item_id for item in reply.items], [item.score for item in reply.items]
