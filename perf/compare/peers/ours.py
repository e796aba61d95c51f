"""The engine's own encoder, on the backend that its bundle was built for."""

from collections.abc import Sequence
from pathlib import Path

from engine.bundle.opened import open_bundle
from engine.query import Prompt
from perf.compare.messages import Encode, PeerTask
from perf.compare.peer_inputs import PromptArrays, Vectors
from perf.engine_access import Engine


def load(task: PeerTask) -> Encode:
    engine = Engine(open_bundle(Path(task.bundle)), task.num_threads)

    def encode(prompts: Sequence[PromptArrays]) -> Vectors:
        return engine.encode([Prompt(*prompt) for prompt in prompts])

    return encode
