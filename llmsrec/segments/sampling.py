"""What a step of a training over segments looks at: windows and their targets."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsrec.dataset import Dataset
from llmsrec.settings import SegmentsSettings


class Step(NamedTuple):
    """Windows of training parts; each interaction but the last of a part has a next one."""

    users: NDArray[np.int64]  # [B]
    windows: NDArray[np.int64]  # [B, W] item rows, oldest first, -1 to the right of the last
    targets: NDArray[np.int64]  # [B, W] the item row after each, -1 where there is none


def draw_steps(dataset: Dataset, settings: SegmentsSettings, epoch: int) -> list[Step]:
    """Draw a window of each user; seeded by the epoch, so that a resumed one repeats it."""
    rng = np.random.default_rng([settings.seed, epoch])
    windows = list(_draw_windows(dataset, settings.window, rng))
    rng.shuffle(windows)
    size = settings.batch_size
    return [
        _lay_out(dataset, windows[start : start + size]) for start in range(0, len(windows), size)
    ]


def _draw_windows(
    dataset: Dataset, length: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int]]:
    for user in range(dataset.num_users):
        num_trained = len(dataset.training_part(user)[0])
        if num_trained > 1:
            end = int(rng.integers(min(length, num_trained - 1), num_trained))
            yield user, max(end - length, 0), end


def _lay_out(dataset: Dataset, windows: list[tuple[int, int, int]]) -> Step:
    longest = max(end - start for _, start, end in windows)
    rows, targets = (np.full((len(windows), longest), -1, np.int64) for _ in range(2))
    for place, (user, start, end) in enumerate(windows):
        part = dataset.training_part(user)[0]
        rows[place, : end - start] = part[start:end]
        targets[place, : end - start] = part[start + 1 : end + 1]
    return Step(np.array([user for user, _, _ in windows]), rows, targets)
