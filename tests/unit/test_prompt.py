"""The prompts' texts, and how much of a history goes into one."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsrec import prompt

MS_PER_DAY = 86_400_000
DATES = prompt.date_pieces()
LENGTHS = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 200)), min_size=1, max_size=25)
"""Tokens of each interaction, oldest first: with its full title, with its clipped one."""


def make_num_tokens(lengths: list[tuple[int, int]], tail: int) -> dict[tuple[int, bool], int]:
    return {
        (kept, clipped): tail + sum(length[clipped] for length in lengths[len(lengths) - kept :])
        for kept in range(1, len(lengths) + 1)
        for clipped in (False, True)
    }


@given(lengths=LENGTHS, tail=st.integers(2, 300))
@settings(deadline=None)
def test_window_holds_as_much_as_fits(lengths: list[tuple[int, int]], tail: int) -> None:
    num_tokens = make_num_tokens([(full, min(full, short)) for full, short in lengths], tail)
    kept, clipped = prompt.plan_window(
        len(lengths), lambda kept, clipped: num_tokens[kept, clipped]
    )
    wanted = min(len(lengths), prompt.MAX_INTERACTIONS)
    fitting = [
        number
        for number in range(1, wanted + 1)
        if num_tokens[number, True] <= prompt.MAX_PROMPT_TOKENS
    ]
    if num_tokens[wanted, False] <= prompt.MAX_PROMPT_TOKENS:
        assert (kept, clipped) == (wanted, False)
    else:
        assert (kept, clipped) == (max(fitting, default=1), True)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([(102, 50)] * 10, (10, False)),
        ([(103, 50)] * 10, (10, True)),
        ([(103, 102)] * 10, (10, True)),
        ([(103, 103)] * 10, (9, True)),
        ([(9000, 1020)], (1, True)),
        ([(9000, 1020), (9, 9)], (1, True)),
        ([(9000, 9000)] * 11 + [(9, 9)] * 10, (10, False)),
    ],
    ids=[
        "all fits exactly",
        "one token too many clips",
        "all fits exactly once clipped",
        "the oldest is dropped after clipping",
        "the only one is clipped",
        "the newest is kept",
        "what is too old has no say",
    ],
)
def test_window_of_known_lengths(
    lengths: list[tuple[int, int]], expected: tuple[int, bool]
) -> None:
    num_tokens = make_num_tokens(lengths, tail=4)
    assert prompt.plan_window(len(lengths), lambda *plan: num_tokens[plan]) == expected


@pytest.fixture(params=["America/Los_Angeles", "Pacific/Kiritimati", "UTC"])
def _local_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_local_zone")
@pytest.mark.parametrize(
    ("timestamp_ms", "expected"),
    [
        (None, " unknown"),
        (0, " 1970-01-01"),
        (MS_PER_DAY - 1, " 1970-01-01"),
        (MS_PER_DAY, " 1970-01-02"),
        (951_782_400_000, " 2000-02-29"),
        (951_868_800_000, " 2000-03-01"),
        (1_525_132_800_000, " 2018-05-01"),
        (1_525_132_799_999, " 2018-04-30"),
        (prompt.MAX_TIMESTAMP_MS, " 2099-12-31"),
    ],
)
def test_date_is_that_of_utc(timestamp_ms: int | None, expected: str) -> None:
    assert prompt.date_piece(timestamp_ms) == expected


@given(timestamp_ms=st.integers(0, prompt.MAX_TIMESTAMP_MS))
@settings(deadline=None)
def test_any_timestamps_date_stands_at_its_row(timestamp_ms: int) -> None:
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)
    assert prompt.date_piece(timestamp_ms) == f" {date.date().isoformat()}"
    assert DATES[prompt.date_row(timestamp_ms)] == prompt.date_piece(timestamp_ms)


def test_dates_begin_with_the_missing_one_and_end_with_the_last_of_2099() -> None:
    assert DATES[prompt.date_row(None)] == DATES[0] == " unknown"
    assert prompt.date_row(prompt.MAX_TIMESTAMP_MS) == len(DATES) - 1
    assert len(set(DATES)) == len(DATES)


def test_user_prompt_is_the_published_template() -> None:
    segments = prompt.user_segments(["Alien", "", 'A "B"'], [0, None, 1_525_132_800_000])
    assert segments == [
        "This user has made a series of purchases in the following order:"
        ' Item No.1, Time: 1970-01-01, "Alien"',
        ',Item No.2, Time: unknown, ""',
        ',Item No.3, Time: 2018-05-01, "A "B""',
        ". Based on this sequence of purchases, generate user representation token:",
    ]


def test_user_prompt_wants_a_timestamp_for_each_title() -> None:
    with pytest.raises(ValueError, match="argument"):
        prompt.user_segments(["Alien", "Heat"], [0])


def test_item_prompt_is_the_published_template() -> None:
    assert prompt.item_segments("Alien") == [
        'The item title and item embedding are as follows: "Alien"',
        ", then generate item representation token:",
    ]


def test_pieces_of_an_entry_are_its_segment() -> None:
    pieces = (prompt.number_piece(2), prompt.date_piece(None), prompt.title_piece("Heat"))
    segments = prompt.user_segments(["Alien", "Heat"], [0, None])
    assert "".join(pieces) == segments[1]
    assert prompt.closing_piece() == segments[2]
