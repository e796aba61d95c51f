"""The engine's own encoder, on the backend that its bundle was built for."""

from collections.abc import Sequence
from pathlib import Path

from engine.bundle.opened import open_bundle
from engine.config import Config, EncoderConfig
from engine.pipelines.open import open_ranker
from engine.request import Prompt
from perf.compare.kit import PromptArrays, Vectors
from perf.compare.task import Encode, Task


def load(task: Task) -> Encode:
    bundle = open_bundle(Path(task.bundle))
    config = Config(encoder=EncoderConfig(num_threads=task.num_threads))
    encoder = open_ranker(bundle, config)

    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        return encoder.encode([Prompt(*prompt) for prompt in prompts], "user_vector")

    return encode
