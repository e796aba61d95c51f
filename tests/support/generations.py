"""A generation without a model: a catalogue of numbers, and a pipeline that adds them up."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.catalogue.snapshot import Catalogue
from engine.encoders.encoder import Tower
from engine.errors import EncodingFailed, GpuFailed
from engine.live import Generation
from engine.pipelines.pipeline import Ranked
from engine.prompts.fragments import Fragments, Ragged
from engine.query import Prompt, Query, Ranking, Search
from engine.sizes import Size, SizeLimits
from llmsrec.prompt import MAX_INTERACTIONS, MAX_TIMESTAMP_MS, date_row

NUM_ITEMS = 1000
VECTOR_DIM = 4
NOT_FINITE = 666
GPU_LOST = 777
LONG_TEXT = 888
DEFECT = 999
"""Sums at which the pipeline fails."""

logger = logging.getLogger(__name__)


class SummingPipeline:
    """Answers a history of numbers with their sum, once its gate is open."""

    sizes: Sequence[Size] = ()
    max_batches_in_flight = 1

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.batches: list[list[int]] = []
        self.num_answered = 0
        self.num_closed = 0
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        assert size.holds(len(queries), max(len(query.prompt) for query in queries))
        vectors = self.encode([query.prompt for query in queries], size, "user_vector")
        sums = vectors[:, 0].astype(int).tolist()
        self.batches.append(sums)
        self.started.set()
        logger.info("encoding")
        assert self.gate.wait(timeout=10)
        time.sleep(self.delay_s)
        _fail_at(sums)
        if NOT_FINITE in sums:
            vectors[-1, 0] = np.nan
        rankings = self.rank(vectors, [query.search for query in queries])
        self.num_answered += len(queries)
        return Ranked(vectors, rankings, encode_ms=2.0, retrieve_ms=1.0)

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        assert tower == "user_vector"
        vectors = np.zeros((len(prompts), VECTOR_DIM), np.float32)
        vectors[:, 0] = [prompt.slot_ids[:-1].sum() - (len(prompt) - 1) for prompt in prompts]
        return vectors[: size.num_prompts]

    def rank(self, user_vectors: NDArray[np.float32], searches: Sequence[Search]) -> list[Ranking]:
        assert len(user_vectors) == len(searches)
        sums = np.nan_to_num(user_vectors[:, :1])
        return [(total.astype(np.int32), total) for total in sums]

    def warm_up(self) -> Mapping[Size, float]:
        return {}

    def close(self) -> None:
        self.num_closed += 1


def make_generation(
    pipeline: SummingPipeline, number: int = 1, limits: SizeLimits | None = None
) -> Generation:
    """Give a generation whose prompts have a token for each interaction and one for the readout."""
    ids = [str(row) for row in range(NUM_ITEMS)]
    catalogue = Catalogue(
        version=f"catalogue-{number}",
        item_ids=ids,
        titles=[f"Title {each}" for each in ids],
        row_of_id={each: row for row, each in enumerate(ids)},
        item_vectors=np.zeros((NUM_ITEMS, VECTOR_DIM), np.float32),
    )
    fragments = Fragments(
        numbers=_empty(MAX_INTERACTIONS),
        dates=_empty(1 + date_row(MAX_TIMESTAMP_MS)),
        titles=_empty(NUM_ITEMS),
        clipped_titles=_empty(NUM_ITEMS),
        closing=_empty(1),
    )
    limits = limits or SizeLimits(max_prompts=4, max_padded_tokens=64)
    return Generation(number, f"model-{number}", catalogue, fragments, pipeline, limits)


def _empty(num_rows: int) -> Ragged:
    return Ragged(np.empty(0, np.int32), np.zeros(num_rows + 1, np.int64))


def _fail_at(sums: Sequence[int]) -> None:
    if GPU_LOST in sums:
        raise GpuFailed("cudaGraphLaunch failed with cudaErrorIllegalAddress")
    if LONG_TEXT in sums:
        raise EncodingFailed("é" * 6000)
    if DEFECT in sums:
        raise KeyError("private")
