"""The whole flow of a recommendation, without any wire format.

request ─► validate ─► render ─► Query ─┐
request ─► validate ─► render ─► Query ─┼─► encode ─► retrieve ─► assemble ─► Recommendation
request ─► validate ─► render ─► Query ─┘   [B, D]    top-k rows
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.batching.micro_batch import choose_limits, split
from engine.bundle.opened import Bundle, open_bundle
from engine.config import Config
from engine.errors import EncodingFailed, InvalidRequest
from engine.pipelines.open import open_ranker
from engine.pipelines.pipeline import Ranker
from engine.prompts.join import render
from engine.ranking.cpu import Ranking
from engine.request import (
    IgnoredInteraction,
    IgnoredReason,
    Interaction,
    MicroBatch,
    Query,
    RankedItem,
    Recommendation,
    RecommendRequest,
    StageTimings,
)
from llmsrec.prompt import MAX_TIMESTAMP_MS


class Recommender:
    """One bundle, ready to answer.

    `render` may be called from any thread, `answer` from `max_batches_in_flight` threads at once.
    """

    def __init__(self, bundle: Bundle, ranker: Ranker, config: Config) -> None:
        self._bundle = bundle
        self._ranker = ranker
        self.limits = choose_limits(config.batcher, bundle.manifest)
        self._resources = ExitStack()
        self._resources.callback(ranker.close)

    @classmethod
    def open(cls, bundle: Path | str, config: Config | None = None) -> "Recommender":
        """Verify a bundle, load it and warm its encoder up.

        Raises:
            BundleError: the bundle is damaged or cannot be served here.
            PlanError: its TensorRT plan cannot be run here.
        """
        config = config or Config()
        opened = open_bundle(Path(bundle))
        with ExitStack() as opening:
            ranker = open_ranker(opened, config)
            opening.callback(ranker.close)
            ranker.warm_up()
            opening.pop_all()
        return cls(opened, ranker, config)

    @property
    def max_batches_in_flight(self) -> int:
        """How many micro-batches may be answered at once."""
        return self._ranker.max_batches_in_flight

    @property
    def model_version(self) -> str:
        return self._bundle.manifest.model_version

    @property
    def catalogue_version(self) -> str:
        return self._bundle.manifest.catalogue_version

    @property
    def item_ids(self) -> list[str]:
        return list(self._bundle.item_ids)

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """The item vectors `[N, D]` float32, in the order of `item_ids`; not to be written to."""
        return self._bundle.item_vectors

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Recommendation]:
        """Answer requests in micro-batches of similar length, in the order given.

        Raises:
            InvalidRequest: one of them cannot be answered; then none is.
        """
        queries = [self.render(request) for request in requests]
        answers: dict[int, Recommendation] = {}
        for batch in split([len(query.prompt) for query in queries], self.limits):
            answered = self.answer([queries[index] for index in batch])
            answers.update(zip(batch, answered, strict=True))
        return [answers[index] for index in range(len(queries))]

    def encode_users(self, histories: Sequence[Sequence[Interaction]]) -> NDArray[np.float32]:
        """Give the user vectors `[len(histories), D]` float32.

        Raises:
            InvalidRequest: a history holds no item of the catalogue.
        """
        prompts = [self.render(RecommendRequest(history)).prompt for history in histories]
        vectors = np.empty((len(prompts), self._bundle.manifest.vector_dim), np.float32)
        for batch in split([len(prompt) for prompt in prompts], self.limits):
            vectors[batch] = self._ranker.encode([prompts[i] for i in batch], "user_vector")
        return vectors

    def render(self, request: RecommendRequest) -> Query:
        """Validate a request and render its prompt; takes microseconds.

        Raises:
            InvalidRequest: with the path of the field to mend.
        """
        started = time.perf_counter()
        bundle = self._bundle
        if not 1 <= request.k <= len(bundle.item_ids):
            raise InvalidRequest("k", f"must be between 1 and {len(bundle.item_ids)}")
        if not request.history:
            raise InvalidRequest("history", "is empty; give at least one interaction")
        _check_timestamps(request.history)
        places = [
            (index, row, interaction.timestamp_ms)
            for index, interaction in enumerate(request.history)
            if (row := bundle.row_of_id.get(interaction.item_id)) is not None
        ]
        if not places:
            raise InvalidRequest(
                "history",
                f"none of its {len(request.history)} item ids is in the catalogue"
                f" {self.catalogue_version}",
            )
        rows = [row for _, row, _ in places]
        prompt, num_used = render(bundle.fragments, rows, [time_ms for _, _, time_ms in places])
        used = {index for index, _, _ in places[-num_used:]}
        known = {index for index, _, _ in places}
        return Query(
            prompt=prompt,
            k=request.k,
            excluded_rows=self._excluded_rows(request, rows),
            ignored=[
                IgnoredInteraction(index, interaction.item_id, _reason(index in known))
                for index, interaction in enumerate(request.history)
                if index not in used
            ],
            num_used_interactions=num_used,
            render_ms=(time.perf_counter() - started) * 1e3,
        )

    def answer(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer one micro-batch; blocks.

        Raises:
            EncodingFailed: a user vector is not finite.
        """
        batch = MicroBatch(len(queries), max(len(query.prompt) for query in queries))
        ranked = self._ranker.rank(queries)
        if not np.isfinite(ranked.user_vectors).all():
            raise EncodingFailed("the encoder gave a user vector that is not finite")
        return [
            self._assemble(
                query,
                ranking,
                batch,
                StageTimings(
                    render_ms=query.render_ms,
                    encode_ms=ranked.encode_ms,
                    retrieve_ms=ranked.retrieve_ms,
                ),
            )
            for query, ranking in zip(queries, ranked.rankings, strict=True)
        ]

    def close(self) -> None:
        """Release what encodes and ranks; a second call does nothing."""
        self._resources.close()

    def _excluded_rows(self, request: RecommendRequest, seen: list[int]) -> NDArray[np.int32]:
        row_of_id = self._bundle.row_of_id
        rows = {
            row
            for item_id in request.excluded_item_ids
            if (row := row_of_id.get(item_id)) is not None
        }
        if not request.include_seen:
            rows.update(seen)
        return np.array(sorted(rows), np.int32)

    def _assemble(
        self, query: Query, ranking: Ranking, batch: MicroBatch, timings: StageTimings
    ) -> Recommendation:
        item_ids, titles = self._bundle.item_ids, self._bundle.titles
        return Recommendation(
            items=[
                RankedItem(item_ids[row], titles[row], score)
                for row, score in zip(ranking[0].tolist(), ranking[1].tolist(), strict=True)
            ],
            model_version=self.model_version,
            catalogue_version=self.catalogue_version,
            ignored=query.ignored,
            num_used_interactions=query.num_used_interactions,
            num_prompt_tokens=len(query.prompt),
            micro_batch=batch,
            timings=timings,
        )


def _check_timestamps(history: Sequence[Interaction]) -> None:
    newest, newest_index = 0, 0
    for index, interaction in enumerate(history):
        timestamp_ms = interaction.timestamp_ms
        if timestamp_ms is None:
            continue
        field = f"history[{index}].timestamp_ms"
        if not 0 <= timestamp_ms <= MAX_TIMESTAMP_MS:
            raise InvalidRequest(
                field, f"must be milliseconds since 1970, between 0 and {MAX_TIMESTAMP_MS}"
            )
        if timestamp_ms < newest:
            raise InvalidRequest(
                field,
                f"is earlier than history[{newest_index}]'s; give the interactions oldest first",
            )
        newest, newest_index = timestamp_ms, index


def _reason(is_known: bool) -> IgnoredReason:  # noqa: FBT001
    return IgnoredReason.BEYOND_WINDOW if is_known else IgnoredReason.UNKNOWN_ITEM
