"""What a peer's process is told, and what it answers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from perf.compare.peer_inputs import PeerInputs, PromptArrays, Vectors

Encode = Callable[[Sequence[PromptArrays]], Vectors]
"""Turns prompts into user vectors `[B, D]` float32."""


class PeerTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the function `load` of a peer's module is given."""

    module: str
    packages: list[str]
    precision: str
    inputs_folder: str
    checkpoint: str
    bundle: str
    num_threads: int

    @property
    def inputs(self) -> PeerInputs:
        return PeerInputs(Path(self.inputs_folder))


class Absent(msgspec.Struct, frozen=True, tag=True):
    package: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    versions: dict[str, str]


class Turn(msgspec.Struct, frozen=True):
    """Asks for one forward."""

    prompts: list[int]
    """Their numbers in the peer's inputs."""


class Encoded(msgspec.Struct, frozen=True, tag=True):
    vectors: list[list[float]]
    time_ms: float
