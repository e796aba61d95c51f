"""A recommender without a model, and a program that serves it."""

import argparse
import asyncio
import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from engine.batching.micro_batch import Limits
from engine.config import AdmissionConfig, Config, ServerConfig
from engine.errors import EncodingFailed, GpuFailed, InvalidRequest
from engine.request import (
    MicroBatch,
    Prompt,
    Query,
    RankedItem,
    Recommendation,
    RecommendRequest,
)
from engine.rpc.server import serve

if TYPE_CHECKING:
    from engine.recommender import Recommender


NOT_FINITE = 666
GPU_LOST = 777
"""A sum for which the encoder fails."""

logger = logging.getLogger(__name__)


class FakeRecommender:
    """Answers a history of integers with their sum; `bug` stands for a defect of ours."""

    model_version = "model-1"
    catalogue_version = "catalogue-1"
    limits = Limits(max_tokens=64, max_prompts=4)
    max_batches_in_flight = 1

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.batches: list[list[int]] = []
        self.num_answered = 0
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def render(self, request: RecommendRequest) -> Query:
        ids = [interaction.item_id for interaction in request.history]
        if not ids:
            raise InvalidRequest("history", "is empty")
        if ids[0] == "long":
            raise InvalidRequest("history", ids[1])
        if "bug" in ids:
            raise KeyError(ids)
        rows = np.array(ids, dtype=np.int32)  # [T]
        return Query(
            prompt=Prompt(token_ids=rows, slot_ids=rows),
            k=request.k,
            excluded_rows=rows[:0],
            ignored=[],
            num_used_interactions=len(ids),
            render_ms=0.5,
        )

    def answer(self, queries: Sequence[Query]) -> list[Recommendation]:
        sums = [int(query.prompt.token_ids.sum()) for query in queries]
        self.batches.append(sums)
        self.started.set()
        logger.info("encoding")
        assert self.gate.wait(timeout=10)
        time.sleep(self.delay_s)
        if GPU_LOST in sums:
            raise GpuFailed("cudaGraphLaunch failed with cudaErrorIllegalAddress")
        if NOT_FINITE in sums:
            raise EncodingFailed("the encoder gave a user vector that is not finite")
        self.num_answered += len(queries)
        batch = MicroBatch(len(queries), max(len(query.prompt) for query in queries))
        return [
            Recommendation(
                items=[RankedItem(str(total), f"Title {total}", float(total))],
                model_version=self.model_version,
                catalogue_version=self.catalogue_version,
                ignored=[],
                num_used_interactions=query.num_used_interactions,
                num_prompt_tokens=len(query.prompt),
                micro_batch=batch,
            )
            for query, total in zip(queries, sums, strict=True)
        ]

    def as_recommender(self) -> "Recommender":
        return cast("Recommender", self)


def make_config(*, listen: str = "127.0.0.1:0", drain_seconds: float = 5.0) -> Config:
    return Config(
        server=ServerConfig(listen=listen, max_request_bytes=16_384, drain_seconds=drain_seconds),
        admission=AdmissionConfig(max_in_flight=4),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    fake = FakeRecommender(parser.parse_args().delay)
    try:
        asyncio.run(serve(fake.as_recommender(), make_config()))
    except GpuFailed as error:
        sys.exit(f"error: {error}")
