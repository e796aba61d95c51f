"""Encodes first, and then ranks: for encoders whose user vectors come back to the host."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from engine.encoders.encoder import Encoder, Tower
from engine.pipelines.pipeline import Ranked
from engine.ranking.cpu import Retrieve
from engine.request import Prompt, Query
from engine.sizes import SHORT_QUERY


class TwoStageRanker:
    """Closes, in the end, what `resources` holds: the encoder at least."""

    def __init__(
        self,
        encoder: Encoder,
        retrieve: Retrieve,
        resources: ExitStack,
        max_batches_in_flight: int = 1,
    ) -> None:
        self.max_batches_in_flight = max_batches_in_flight
        self._encoder = encoder
        self._retrieve = retrieve
        self._resources = resources

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        return self._encoder.encode(prompts, tower)

    def rank(self, queries: Sequence[Query]) -> Ranked:
        started = time.perf_counter()
        vectors = self._encoder.encode([query.prompt for query in queries], "user_vector")
        encoded = time.perf_counter()
        rankings = self._retrieve(
            vectors,
            excluded_rows=[query.excluded_rows for query in queries],
            k=[query.k for query in queries],
        )
        retrieved = time.perf_counter()
        return Ranked(vectors, rankings, (encoded - started) * 1e3, (retrieved - encoded) * 1e3)

    def warm_up(self) -> None:
        self._encoder.warm_up()
        self.rank([SHORT_QUERY])

    def close(self) -> None:
        self._resources.close()
