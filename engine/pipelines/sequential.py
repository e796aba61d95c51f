"""Encodes first, and then ranks: for encoders whose user vectors come back to the host."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from engine.encoders.encoder import Encoder, Tower
from engine.pipelines.pipeline import Ranked
from engine.query import FIRST_SEARCH, Prompt, Query, Ranking, Search, fill
from engine.ranking.ranker import Ranker
from engine.sizes import Size


class SequentialPipeline:
    """Joins an encoder and a ranker; closes, in the end, what `resources` holds."""

    def __init__(
        self,
        encoder: Encoder,
        ranker: Ranker,
        resources: ExitStack,
        max_batches_in_flight: int = 1,
    ) -> None:
        self.sizes = encoder.sizes
        self.max_batches_in_flight = max_batches_in_flight
        self._encoder = encoder
        self._ranker = ranker
        self._resources = resources

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        started = time.perf_counter()
        vectors = self.encode([query.prompt for query in queries], size, "user_vector")
        encoded = time.perf_counter()
        rankings = self.rank(vectors, [query.search for query in queries])
        retrieved = time.perf_counter()
        return Ranked(vectors, rankings, (encoded - started) * 1e3, (retrieved - encoded) * 1e3)

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        return self._encoder.encode(prompts, size, tower)

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        return self._ranker.rank(user_vectors, searches)

    def warm_up(self) -> Mapping[Size, float]:
        measured_ms = self._encoder.warm_up()
        size = next(iter(measured_ms))
        self.run([Query(fill(size)[0], FIRST_SEARCH)], size)
        return measured_ms

    def close(self) -> None:
        self._resources.close()
