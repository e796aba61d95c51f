"""Drawn loads: lengths, popularity, repeat users, and the schedule that clients share."""

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.rpc.wire import decode_request
from llmsrec.v1 import recommender_pb2 as pb
from perf.errors import MeasureError
from perf.load.drawn import draw_histories, draw_schedule, draw_users
from perf.load.options import Lengths, LoadOptions
from perf.load.schedule import Schedule

ITEM_IDS = [f"item-{row}" for row in range(50)]


def draw(**options: Any) -> Schedule:  # noqa: ANN401
    usual = LoadOptions(rate=20.0, arrivals="constant", warm_up_s=1.0, duration_s=4.0)
    return draw_schedule(msgspec.structs.replace(usual, **options), ITEM_IDS)


def sends(schedule: Schedule) -> list[tuple[float, bytes]]:
    messages = [schedule.messages[row] for row in schedule.message_rows.tolist()]
    return list(zip(schedule.send_times_s.tolist(), messages, strict=True))


def test_schedule_holds_valid_requests_at_their_times() -> None:
    schedule = draw(lengths=(Lengths(2, 3, 1.0),), k=7)
    assert (len(schedule), schedule.num_measured()) == (100, 80)
    for _, message in sends(schedule):
        request = decode_request(pb.RecommendRequest.FromString(message))
        assert request.k == 7
        assert len(request.history) in (2, 3)
        assert {interaction.item_id for interaction in request.history} <= set(ITEM_IDS)
        times_ms = [interaction.timestamp_ms or 0 for interaction in request.history]
        assert times_ms == sorted(times_ms)


def test_server_chooses_k_where_none_was_given() -> None:
    messages = [pb.RecommendRequest.FromString(message) for message in draw().messages]
    assert not any(message.HasField("k") for message in messages)


def test_seed_fixes_the_schedule() -> None:
    assert sends(draw(seed=5)) == sends(draw(seed=5))
    assert sends(draw(seed=5)) != sends(draw(seed=6))


def test_parts_hold_every_request_once_and_keep_the_shape() -> None:
    schedule = draw()
    parts = schedule.split(3)
    assert sorted(send for part in parts for send in sends(part)) == sorted(sends(schedule))
    assert [part.num_measured() for part in parts] == [27, 26, 27]
    for part in parts:
        assert sorted(set(part.message_rows.tolist())) == list(range(len(part.messages)))


def test_more_clients_than_requests_leave_some_idle() -> None:
    parts = draw(rate=1).split(9)
    assert [len(part) for part in parts] == [1] * 5 + [0] * 4


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(MeasureError, match="no request to measure; raise --rate or --duration"):
        draw(rate=0.2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_repeat_share_of_the_requests_bring_an_earlier_user(share: float) -> None:
    users = draw_users(5000, share, np.random.default_rng(0)).tolist()
    newest = -1
    num_repeats = 0
    for user in users:
        assert user <= newest + 1
        num_repeats += user <= newest
        newest = max(newest, user)
    assert num_repeats == pytest.approx(share * 4999, abs=150 if 0 < share < 1 else 0)


def test_repeated_user_may_be_any_earlier_one() -> None:
    users = draw_users(3000, 0.5, np.random.default_rng(0))
    repeats = np.array([user for index, user in enumerate(users) if user in users[:index]])
    # Half the requests bring a new user: the first 600 repeats only know users below 300.
    assert np.mean(repeats < 300) == pytest.approx(0.2 + 0.2 * np.log(5), abs=0.05)


def test_lengths_follow_their_weights() -> None:
    options = LoadOptions(lengths=(Lengths(1, 2, 1.0), Lengths(10, 12, 3.0)))
    histories = draw_histories(4000, 50, options, np.random.default_rng(0))
    counts = Counter(len(rows) for rows in histories)
    assert sorted(counts) == [1, 2, 10, 11, 12]
    assert counts[1] + counts[2] == pytest.approx(1000, abs=120)
    assert counts[12] == pytest.approx(1000, abs=120)


def test_popularity_falls_with_the_rank_as_a_power() -> None:
    options = LoadOptions(lengths=(Lengths(20, 20, 1.0),), zipf_exponent=1.0)
    rows = np.concatenate(draw_histories(5000, 100, options, np.random.default_rng(0)))
    counts = [count for _, count in Counter(rows.tolist()).most_common()]
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)
    assert len(counts) == 100


def test_no_skew_makes_all_items_alike_and_popular_items_are_drawn() -> None:
    flat = LoadOptions(lengths=(Lengths(20, 20, 1.0),), zipf_exponent=0.0)
    rows = np.concatenate(draw_histories(5000, 100, flat, np.random.default_rng(0)))
    counts = np.bincount(rows, minlength=100)
    assert counts.min() > 0.8 * counts.max()
    favourites = {
        int(np.bincount(np.concatenate(draw_histories(200, 100, LoadOptions(), rng))).argmax())
        for rng in map(np.random.default_rng, range(4))
    }
    assert len(favourites) > 1
