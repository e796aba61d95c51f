"""What runs the encoder graph: the one interface of all encoders."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.request import Prompt

Tower = Literal["user_vector", "item_vector"]
Untyped = Any
"""An object of a library that has no types."""


class Encoder(Protocol):
    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        """Encode one micro-batch into `[B, D]` float32; blocks."""

    def warm_up(self) -> None:
        """Run once at every size that is to be fast from the first request on."""

    def close(self) -> None: ...
