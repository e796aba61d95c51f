"""What runs the encoder graph: what all encoders do."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.query import Prompt
from engine.sizes import Size

Tower = Literal["user_vector", "item_vector"]


class Encoder(Protocol):
    sizes: Sequence[Size]
    """The sizes that it is made ready for; one without any takes every size."""

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        """Encode one micro-batch as a whole, padded to its size, into `[B, D]` float32; blocks.

        Raises:
            EncodingFailed: the graph could not be run.
            GpuFailed: nothing more can be run on the GPU.
        """

    def warm_up(self) -> Mapping[Size, float]:
        """Run what is to be fast from the first request on, and give the milliseconds of each."""

    def close(self) -> None: ...
