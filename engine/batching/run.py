"""Runs one micro-batch and tells each of its queries what it got."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from engine.pipelines.pipeline import Ranked
from engine.query import Query, Ranking
from engine.request import MicroBatch
from engine.sizes import Size, SizeLimits


class Runner(Protocol):
    """What micro-batches are formed for and run on: a generation."""

    @property
    def limits(self) -> SizeLimits: ...

    @property
    def max_batches_in_flight(self) -> int: ...

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        """Encode and rank; blocks."""


class Outcome(NamedTuple):
    """What a query got out of its micro-batch."""

    ranking: Ranking
    micro_batch: MicroBatch
    begun: float
    """When the micro-batch was begun, in seconds of `time.monotonic`."""
    encode_ms: float
    retrieve_ms: float


def run_batch(runner: Runner, queries: Sequence[Query], size: Size) -> list[Outcome]:
    """Run a micro-batch as a whole; blocks."""
    begun = time.monotonic()
    ranked = runner.run(queries, size)
    batch = MicroBatch(len(queries), max(len(query.prompt) for query in queries))
    return [
        Outcome(ranking, batch, begun, ranked.encode_ms, ranked.retrieve_ms)
        for _, ranking in zip(queries, ranked.rankings, strict=True)
    ]
