"""What a graph is calibrated on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.query import Prompt


class Calibration(NamedTuple):
    """Prompts of both towers and the item table `[N, 64]` that their slots refer to."""

    prompts: Sequence[Prompt]
    item_table: NDArray[np.float32]
