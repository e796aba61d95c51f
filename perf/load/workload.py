"""Draws a load from a catalogue: who asks, with which history, and when."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine import Interaction, RecommendRequest
from engine.rpc.wire import encode_request
from perf.load.errors import LoadError
from perf.load.plan import Plan
from perf.load.schedule import make_send_times
from perf.load.settings import Drawn, Mix

FIRST_INTERACTION_MS = 1_577_836_800_000  # 2020-01-01
MS_PER_DAY = 86_400_000


def draw_plan(load: Drawn, item_ids: Sequence[str]) -> Plan:
    """Draw every request of a run.

    Raises:
        LoadError: there is nothing to measure.
    """
    rng = np.random.default_rng(load.seed)
    pace, mix = load.pace, load.mix
    send_times_s = make_send_times(pace, rng)
    users = draw_users(len(send_times_s), mix.repeat_share, rng)
    histories = draw_histories(int(users.max(initial=-1)) + 1, len(item_ids), mix, rng)
    plan = Plan(
        send_times_s=send_times_s,
        message_rows=users,
        messages=[_encode(history, item_ids, mix.k) for history in histories],
        warm_up_s=pace.warm_up_s,
        duration_s=pace.duration_s,
    )
    if not plan.num_measured():
        raise LoadError(
            f"{pace.rate:g} requests/s for {pace.duration_s:g} s make no request to measure;"
            " raise --rate or --duration"
        )
    return plan


def draw_users(
    num_requests: int, repeat_share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Give the user of each request `[num_requests]`: the next new one, or any earlier one."""
    repeats = rng.random(num_requests) < repeat_share
    num_seen = np.cumsum(~repeats)
    earlier = (rng.random(num_requests) * num_seen).astype(np.int64)
    return np.where(repeats, earlier, num_seen - 1)


def draw_histories(
    num_users: int, num_items: int, mix: Mix, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give each user's item rows, oldest first; a popular item may occur more than once.

    Popularity falls with the rank as rank^-exponent; which items are popular is drawn too.
    """
    weights = np.array([lengths.weight for lengths in mix.lengths])
    kinds = rng.choice(len(weights), num_users, p=weights / weights.sum())
    shortest = np.array([lengths.shortest for lengths in mix.lengths])[kinds]
    longest = np.array([lengths.longest for lengths in mix.lengths])[kinds]
    lengths = rng.integers(shortest, longest, endpoint=True)  # [num_users]
    mass = np.cumsum(np.arange(1, num_items + 1, dtype=np.float64) ** -mix.zipf_exponent)
    ranks = np.searchsorted(mass / mass[-1], rng.random(lengths.sum()), side="right")
    rows = rng.permutation(num_items)[ranks]
    return np.split(rows, np.cumsum(lengths)[:-1])


def _encode(history: NDArray[np.int64], item_ids: Sequence[str], k: int) -> bytes:
    """Serialise a request whose interactions lie a day apart."""
    interactions = [
        Interaction(item_ids[row], FIRST_INTERACTION_MS + index * MS_PER_DAY)
        for index, row in enumerate(history.tolist())
    ]
    return encode_request(RecommendRequest(interactions, k)).SerializeToString()
