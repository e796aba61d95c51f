"""Runs any number of queries as a server does: in micro-batches of the sizes that there are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.config import BatcherConfig
from engine.encoders.encoder import Encoder, Tower
from engine.pipelines.pipeline import Pipeline, Ranked
from engine.query import Prompt, Query
from engine.sizes import choose_limits


def run_all(pipeline: Pipeline, queries: Sequence[Query]) -> Ranked:
    """Give what each query got, in order, and the sums of the micro-batches' times."""
    limits = choose_limits(BatcherConfig(), pipeline.sizes)
    order: list[int] = []
    ranked: list[Ranked] = []
    for members, size in limits.split([len(query.prompt) for query in queries]):
        ranked.append(pipeline.run([queries[index] for index in members], size))
        order += members
    vectors = np.concatenate([each.user_vectors for each in ranked])
    rankings = [ranking for each in ranked for ranking in each.rankings]
    places = np.argsort(order)
    return Ranked(
        user_vectors=vectors[places],
        rankings=[rankings[place] for place in places],
        encode_ms=sum(each.encode_ms for each in ranked),
        retrieve_ms=sum(each.retrieve_ms for each in ranked),
    )


def encode_all(
    encoder: Encoder | Pipeline, prompts: Sequence[Prompt], tower: Tower
) -> NDArray[np.float32]:
    """Give the vectors `[B, D]` in order."""
    limits = choose_limits(BatcherConfig(), encoder.sizes)
    found: dict[int, NDArray[np.float32]] = {}
    for members, size in limits.split([len(prompt) for prompt in prompts]):
        vectors = encoder.encode([prompts[index] for index in members], size, tower)
        found.update(zip(members, vectors, strict=True))
    return np.stack([found[index] for index in range(len(prompts))])
