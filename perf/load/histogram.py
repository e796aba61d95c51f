"""Times in an HdrHistogram: small however many there are, right to three digits, mergeable."""

import math
from collections.abc import Sequence

from hdrh.histogram import HdrHistogram

MAX_US = 3_600_000_000
NUM_DIGITS = 3
NUM_DECIMALS = 9
"""Of a rank, so that 99.9 % of 1000 times are 999 of them in spite of binary fractions."""


class Histogram:
    """Times in milliseconds, kept as microseconds up to an hour; pickles in compressed form."""

    def __init__(self) -> None:
        self.counts = HdrHistogram(1, MAX_US, NUM_DIGITS)

    def record(self, time_ms: float) -> None:
        self.counts.record_value(min(max(round(time_ms * 1e3), 0), MAX_US))

    def merge(self, other: "Histogram") -> None:
        self.counts.add(other.counts)

    def __len__(self) -> int:
        return int(self.counts.get_total_count())

    def percentiles_ms(self, percentiles: Sequence[float]) -> list[float]:
        """Give the shortest times that these percentages of all times do not exceed.

        At least one time must have been recorded; 100 gives the longest.
        """
        ranks = [math.ceil(round(len(self) * each / 100, NUM_DECIMALS)) for each in percentiles]
        exact = [100 * rank / len(self) for rank in ranks]  # HdrHistogram rounds half ranks down
        time_us_of = self.counts.get_percentile_to_value_dict(exact)
        return [time_us_of[percentile] / 1e3 for percentile in exact]

    def __getstate__(self) -> bytes:
        return bytes(self.counts.encode())

    def __setstate__(self, state: bytes) -> None:
        self.counts = HdrHistogram.decode(state)
