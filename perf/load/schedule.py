"""A run laid out: every request and when it is to be sent, fixed before the first one is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """R requests, of which those before `warm_up_s` are sent but not measured."""

    send_times_s: NDArray[np.float64]  # [R], ascending, from the start of the run
    message_rows: NDArray[np.int64]  # [R], into `messages`
    messages: Sequence[bytes]
    """The distinct requests, serialised."""
    warm_up_s: float
    duration_s: float

    def __len__(self) -> int:
        return len(self.send_times_s)

    def num_measured(self) -> int:
        return int(np.count_nonzero(self.send_times_s >= self.warm_up_s))

    def split(self, num_parts: int) -> list["Schedule"]:
        """Deal the requests out in turn, so that each part keeps the shape of the whole."""
        return [self._part(part, num_parts) for part in range(num_parts)]

    def _part(self, part: int, num_parts: int) -> "Schedule":
        needed, rows = np.unique(self.message_rows[part::num_parts], return_inverse=True)
        return Schedule(
            send_times_s=self.send_times_s[part::num_parts],
            message_rows=rows,
            messages=[self.messages[row] for row in needed.tolist()],
            warm_up_s=self.warm_up_s,
            duration_s=self.duration_s,
        )
