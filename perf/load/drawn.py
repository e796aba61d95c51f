"""Draws a load from a catalogue: who asks, with which history, and when."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine import Interaction, RecommendRequest
from engine.rpc.wire import encode_request
from perf.errors import MeasureError
from perf.load.arrivals import make_send_times
from perf.load.options import LoadOptions
from perf.load.schedule import Schedule

FIRST_INTERACTION_MS = 1_577_836_800_000  # 2020-01-01
MS_PER_DAY = 86_400_000


def draw_schedule(options: LoadOptions, item_ids: Sequence[str]) -> Schedule:
    """Draw every request of a run.

    Raises:
        MeasureError: there is nothing to measure.
    """
    rng = np.random.default_rng(options.seed)
    send_times_s = make_send_times(options, rng)
    users = draw_users(len(send_times_s), options.repeat_share, rng)
    histories = draw_histories(int(users.max(initial=-1)) + 1, len(item_ids), options, rng)
    schedule = Schedule(
        send_times_s=send_times_s,
        message_rows=users,
        messages=[_encode(history, item_ids, options.k) for history in histories],
        warm_up_s=options.warm_up_s,
        duration_s=options.duration_s,
    )
    if not schedule.num_measured():
        raise MeasureError(
            f"{options.rate:g} requests/s for {options.duration_s:g} s make no request to measure;"
            " raise --rate or --duration"
        )
    return schedule


def draw_users(
    num_requests: int, repeat_share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Give the user of each request `[num_requests]`: the next new one, or any earlier one."""
    repeats = rng.random(num_requests) < repeat_share
    num_seen = np.cumsum(~repeats)
    earlier = (rng.random(num_requests) * num_seen).astype(np.int64)
    return np.where(repeats, earlier, num_seen - 1)


def draw_histories(
    num_users: int, num_items: int, options: LoadOptions, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give each user's item rows, oldest first; a popular item may occur more than once.

    Popularity falls with the rank as rank^-exponent; which items are popular is drawn too.
    """
    weights = np.array([lengths.weight for lengths in options.lengths])
    kinds = rng.choice(len(weights), num_users, p=weights / weights.sum())
    shortest = np.array([lengths.shortest for lengths in options.lengths])[kinds]
    longest = np.array([lengths.longest for lengths in options.lengths])[kinds]
    lengths = rng.integers(shortest, longest, endpoint=True)  # [num_users]
    mass = np.cumsum(np.arange(1, num_items + 1, dtype=np.float64) ** -options.zipf_exponent)
    ranks = np.searchsorted(mass / mass[-1], rng.random(lengths.sum()), side="right")
    rows = rng.permutation(num_items)[ranks]
    return np.split(rows, np.cumsum(lengths)[:-1])


def _encode(history: NDArray[np.int64], item_ids: Sequence[str], k: int | None) -> bytes:
    """Serialise a request whose interactions lie a day apart."""
    interactions = [
        Interaction(item_ids[row], FIRST_INTERACTION_MS + index * MS_PER_DAY)
        for index, row in enumerate(history.tolist())
    ]
    return encode_request(RecommendRequest(interactions, k)).SerializeToString()
