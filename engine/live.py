"""The generation that answers new requests: bundle, catalogue and pipeline under one number."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.bundle.opened import open_bundle
from engine.catalogue.snapshot import Catalogue
from engine.config import Config
from engine.errors import EncodingFailed
from engine.pipelines.open import open_pipeline
from engine.pipelines.pipeline import Pipeline, Ranked
from engine.prompts.fragments import Fragments
from engine.prompts.render import Rendering, render
from engine.query import Query
from engine.request import RecommendRequest
from engine.sizes import Size, SizeLimits, choose_limits


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What a request is rendered, encoded and ranked on, from beginning to end."""

    number: int
    model_version: str
    catalogue: Catalogue
    fragments: Fragments
    pipeline: Pipeline
    limits: SizeLimits

    @property
    def max_batches_in_flight(self) -> int:
        return self.pipeline.max_batches_in_flight

    def render(self, request: RecommendRequest, received: float) -> "Rendered":
        """Render a request that came in at `received`, in seconds of `time.monotonic`.

        Raises:
            InvalidRequest: with the path of the field to mend.
        """
        started = time.monotonic()
        rendering = render(request, self.catalogue, self.fragments)
        return Rendered(self, rendering, received, started, time.monotonic())

    def run(self, queries: Sequence[Query], size: Size) -> Ranked:
        """Encode and rank one micro-batch; blocks.

        Raises:
            EncodingFailed: a user vector is not finite.
        """
        ranked = self.pipeline.run(queries, size)
        if not np.isfinite(ranked.user_vectors).all():
            raise EncodingFailed("the encoder gave a user vector that is not finite")
        return ranked

    def close(self) -> None:
        self.pipeline.close()


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A request on its way, bound to the generation that rendered it.

    Its moments are in seconds of `time.monotonic`.
    """

    generation: Generation
    rendering: Rendering
    received: float
    started: float
    finished: float

    @property
    def query(self) -> Query:
        return self.rendering.query


def open_generation(path: Path, config: Config, number: int = 1) -> Generation:
    """Verify a bundle, load it and warm its pipeline up.

    Raises:
        BundleError: the bundle is damaged or cannot be served here.
        BackendUnavailable: what it needs of this machine is missing.
        PlanError: its TensorRT plan is not for this GPU or library.
    """
    bundle = open_bundle(path)
    with ExitStack() as opening:
        pipeline = open_pipeline(bundle, config)
        opening.callback(pipeline.close)
        bundle.files.hold()
        pipeline.warm_up()
        opening.pop_all()
    return Generation(
        number=number,
        model_version=bundle.manifest.model_version,
        catalogue=bundle.catalogue,
        fragments=bundle.fragments,
        pipeline=pipeline,
        limits=choose_limits(config.batcher, pipeline.sizes),
    )


class Live:
    """Holds the current generation; who renders on one keeps it until the answer."""

    def __init__(self, generation: Generation) -> None:
        self.current = generation

    def swap(self, generation: Generation) -> Generation:
        """Let new requests be rendered on another generation, and give the old one.

        The old one is the caller's to close, once none of its requests is under way.
        """
        old, self.current = self.current, generation
        return old

    def close(self) -> None:
        self.current.close()
