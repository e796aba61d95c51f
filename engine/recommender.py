"""The whole flow of recommendations in process, for requests that are all at hand.

request ─► render ─┐
request ─► render ─┼─► split by length ─► encode ─► retrieve ─► assemble ─► Recommendation
request ─► render ─┘   micro-batches      [B, D]    top-k rows
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.assemble import assemble
from engine.batching.run import run_batch
from engine.config import Config
from engine.live import Generation, open_generation
from engine.request import Interaction, Recommendation, RecommendRequest


class Recommender:
    """One bundle, ready to answer; calls from several threads are run one beside the other."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @classmethod
    def open(cls, bundle: Path | str, config: Config | None = None) -> "Recommender":
        """Verify a bundle, load it and warm its encoder up.

        Raises:
            BundleError: the bundle is damaged or cannot be served here.
            BackendUnavailable: what it needs of this machine is missing.
            PlanError: its TensorRT plan is not for this GPU or library.
        """
        return cls(open_generation(Path(bundle), config or Config()))

    @property
    def model_version(self) -> str:
        return self._generation.model_version

    @property
    def catalogue_version(self) -> str:
        return self._generation.catalogue.version

    @property
    def item_ids(self) -> list[str]:
        return list(self._generation.catalogue.item_ids)

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """The item vectors `[N, D]` float32, in the order of `item_ids`; not to be written to."""
        return self._generation.catalogue.item_vectors

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Recommendation]:
        """Answer requests in micro-batches of similar length, in the order given.

        Raises:
            InvalidRequest: one of them cannot be answered; then none is.
            EncodingFailed: a user vector is not finite.
        """
        generation, received = self._generation, time.monotonic()
        rendered = [generation.render(request, received) for request in requests]
        queries = [each.query for each in rendered]
        answers: dict[int, Recommendation] = {}
        for members, size in generation.limits.split([len(query.prompt) for query in queries]):
            outcomes = run_batch(generation, [queries[index] for index in members], size)
            for index, outcome in zip(members, outcomes, strict=True):
                answers[index] = assemble(rendered[index], outcome)
        return [answers[index] for index in range(len(requests))]

    def encode_users(self, histories: Sequence[Sequence[Interaction]]) -> NDArray[np.float32]:
        """Give the user vectors `[len(histories), D]` float32.

        Raises:
            InvalidRequest: a history holds no item of the catalogue.
        """
        generation, received = self._generation, time.monotonic()
        prompts = [
            generation.render(RecommendRequest(history), received).query.prompt
            for history in histories
        ]
        vectors = np.empty((len(prompts), self.item_vectors.shape[1]), np.float32)
        for members, size in generation.limits.split([len(prompt) for prompt in prompts]):
            batch = [prompts[index] for index in members]
            vectors[members] = generation.pipeline.encode(batch, size, "user_vector")
        return vectors

    def close(self) -> None:
        """Release what encodes and ranks; a second call does nothing."""
        self._generation.close()
