"""The whole flow of recommendations in process, for requests that are all at hand.

request ─► render ─┐
request ─► render ─┼─► split by length ─► encode ─► retrieve ─► assemble ─► Recommendation
request ─► render ─┘   micro-batches      [B, D]    top-k rows
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.assemble import assemble
from engine.batching.run import run_batch
from engine.config import Config
from engine.errors import (
    BundleError,
    ConfigError,
    EncodingFailed,
    InvalidRequest,
    RecommenderClosed,
)
from engine.live import Generation, open_generation
from engine.request import Interaction, Recommendation, RecommendRequest
from engine.request_types import check_histories, check_requests


class Recommender:
    """One bundle, ready to answer; calls from several threads are run one beside the other."""

    def __init__(self, generation: Generation) -> None:
        if not isinstance(generation, Generation):
            raise BundleError(f"{generation!r} is no generation; use Recommender.open(bundle)")
        self._opened: Generation | None = generation
        self._num_calls = 0
        self._ended = threading.Condition()

    @classmethod
    def open(cls, bundle: Path | str, config: Config | None = None) -> "Recommender":
        """Verify a bundle, load it and warm its encoder up.

        Raises:
            BundleError: the bundle is damaged or cannot be served here.
            BackendUnavailable: what it needs of this machine is missing.
            PlanError: its TensorRT plan is not for this GPU or library.
            ConfigError: the configuration is none, or holds what a file's may not.
        """
        return cls(open_generation(_check_path(bundle), _check_config(config)))

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
        """The item vectors `[N, D]` float32, in the order of `item_ids`; read-only."""
        vectors = self._generation.catalogue.item_vectors.view()
        vectors.flags.writeable = False
        return vectors

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Recommendation]:
        """Answer requests in micro-batches of similar length, in the order given.

        Raises:
            InvalidRequest: one of them cannot be answered; then none is.
            EncodingFailed: a user vector is not finite.
            RecommenderClosed: it was closed.
        """
        received = time.monotonic()
        with self._call() as generation:
            rendered = []
            for place, request in enumerate(check_requests(requests)):
                with _naming(f"requests[{place}]."):
                    rendered.append(generation.render(request, received))
            queries = [each.query for each in rendered]
            lengths = [len(query.prompt) for query in queries]
            answers: dict[int, Recommendation] = {}
            for members, size in generation.limits.split(lengths):
                outcomes = run_batch(generation, [queries[index] for index in members], size)
                for index, outcome in zip(members, outcomes, strict=True):
                    answers[index] = assemble(rendered[index], outcome)
            return [answers[index] for index in range(len(rendered))]

    def encode_users(self, histories: Sequence[Sequence[Interaction]]) -> NDArray[np.float32]:
        """Give the user vectors `[len(histories), D]` float32.

        Raises:
            InvalidRequest: a history holds no item of the catalogue.
            EncodingFailed: a user vector is not finite.
            RecommenderClosed: it was closed.
        """
        received = time.monotonic()
        with self._call() as generation:
            prompts = []
            for place, history in enumerate(check_histories(histories)):
                with _naming(f"histories[{place}]", "history"):
                    rendered = generation.render(RecommendRequest(history), received)
                prompts.append(rendered.query.prompt)
            vector_dim = generation.catalogue.item_vectors.shape[1]
            vectors = np.empty((len(prompts), vector_dim), np.float32)
            for members, size in generation.limits.split([len(prompt) for prompt in prompts]):
                batch = [prompts[index] for index in members]
                vectors[members] = generation.pipeline.encode(batch, size, "user_vector")
        if not np.isfinite(vectors).all():
            raise EncodingFailed("the encoder gave a user vector that is not finite")
        return vectors

    def close(self) -> None:
        """Let the calls under way end, then release what encodes and ranks; again does nothing."""
        with self._ended:
            opened, self._opened = self._opened, None
            self._ended.wait_for(lambda: self._num_calls == 0)
        if opened is not None:
            opened.close()

    @contextmanager
    def _call(self) -> Iterator[Generation]:
        """Keep the generation open for one call."""
        with self._ended:
            generation = self._generation
            self._num_calls += 1
        try:
            yield generation
        finally:
            with self._ended:
                self._num_calls -= 1
                self._ended.notify_all()

    @property
    def _generation(self) -> Generation:
        if self._opened is None:
            raise RecommenderClosed("the recommender is closed; open the bundle again")
        return self._opened


@contextmanager
def _naming(path: str, replaced: str = "") -> Iterator[None]:
    """Name what is wrong with one of many by its path among them."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(path + error.field.removeprefix(replaced), error.problem) from error


def _check_path(bundle: object) -> Path:
    path = os.fspath(bundle) if isinstance(bundle, (str, os.PathLike)) else None
    if isinstance(path, str) and path and "\0" not in path:
        return Path(path)
    raise BundleError(f"{bundle!r} is no path of a bundle; give that of its folder")


def _check_config(config: object) -> Config:
    """Hold a configuration that was made in Python to what a file's is held to."""
    if config is None:
        return Config()
    if not isinstance(config, Config):
        found = type(config).__name__
        raise ConfigError(f"config: is {found}, expected Config; read a file with load_config")
    try:
        return msgspec.convert(msgspec.to_builtins(config), Config)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"config: {error}") from error
