"""An interaction as it is typed: an id, and a time that is one or is refused."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.commands.interaction import parse_interaction
from engine.request import Interaction
from llmsrec.prompt import MAX_TIMESTAMP_MS

MIDNIGHT_MS = 880_156_800_000  # 1997-11-22
TIMES = st.from_regex(r"[-+]?[0-9]{1,4}([-/.:eT ][0-9]{0,4}){0,3}[Z\n]?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "interaction"),
    [
        ("50", Interaction("50")),
        ("50@880156800001", Interaction("50", MIDNIGHT_MS + 1)),
        ("50@1997-11-22", Interaction("50", MIDNIGHT_MS)),
        ("50@1970-01-01", Interaction("50", 0)),
        ("50@2024-02-29", Interaction("50", 1_709_164_800_000)),
        (f"50@{MAX_TIMESTAMP_MS}", Interaction("50", MAX_TIMESTAMP_MS)),
        ("50@0880156800000", Interaction("50", MIDNIGHT_MS)),
        ("me@home", Interaction("me@home")),
        ("me@home@0", Interaction("me@home", 0)),
        ("pkg@1.2.3", Interaction("pkg@1.2.3")),
        ("root@10.0.0.1", Interaction("root@10.0.0.1")),
        ("user@2024@1997-11-22", Interaction("user@2024", MIDNIGHT_MS)),
        ("50@", Interaction("50@")),
        ("@50", Interaction("@50")),
        ("50@٣", Interaction("50@٣")),
    ],
)
def test_what_follows_the_last_at_sign_is_the_time_if_it_is_one(
    text: str, interaction: Interaction
) -> None:
    assert parse_interaction(text) == interaction


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("50@1997-13-45", "there is no day 1997-13-45", id="no such month"),
        pytest.param("50@2024-02-30", "there is no day 2024-02-30", id="no such day"),
        pytest.param("50@2023-02-29", "there is no day 2023-02-29", id="no leap year"),
        pytest.param("50@0000-01-01", "there is no day 0000-01-01", id="no such year"),
        pytest.param("50@1997-1-2", "'1997-1-2' is no time", id="digits left out"),
        pytest.param("50@97-11-22", "'97-11-22' is no time", id="century left out"),
        pytest.param("50@11/22/1997", "'11/22/1997' is no time", id="American date"),
        pytest.param("50@22.11.1997", "'22.11.1997' is no time", id="German date"),
        pytest.param("50@1997-11", "'1997-11' is no time", id="month alone"),
        pytest.param("50@1997-11-22T10:00:00Z", "22T10:00:00Z' is no time", id="time of day"),
        pytest.param("50@1997-11-22 10:00", "22 10:00' is no time", id="time of day after a space"),
        pytest.param("50@10:00", "'10:00' is no time", id="time of day alone"),
        pytest.param("50@ 1997-11-22", "' 1997-11-22' is no time", id="space before"),
        pytest.param("50@1997-11-22\n", r"'1997-11-22\n' is no time", id="line break after"),
        pytest.param("50@1997-11-22Z", "'1997-11-22Z' is no time", id="date with its zone"),
        pytest.param("50@1997-W47-4", "'1997-W47-4' is no time", id="day of a week"),
        pytest.param("50@880_156_800_000", "'880_156_800_000' is no time", id="digits apart"),
        pytest.param("50@-5", "'-5' is no time", id="before 1970"),
        pytest.param("50@+880156800000", "'+880156800000' is no time", id="sign"),
        pytest.param("50@1.5e12", "'1.5e12' is no time", id="float with exponent"),
        pytest.param("50@880156800.5", "'880156800.5' is no time", id="fraction of a second"),
        pytest.param("50@1969-12-31", "1969-12-31 is before 1970", id="date before 1970"),
        pytest.param("50@2100-01-01", "2100-01-01 is after 2099-12-31", id="date after 2099"),
        pytest.param("50@1500000000", "if it is in seconds, write 1500000000000", id="seconds"),
        pytest.param("50@880156800", "would be 1970-01-11 in milliseconds", id="early seconds"),
        pytest.param("50@1997", "1997 would be 1970-01-01 in milliseconds", id="year"),
        pytest.param("50@19971122", "19971122 would be 1970-01-01", id="date without hyphens"),
        pytest.param("50@880156800000000", "880156800000000 is after 2099", id="microseconds"),
        pytest.param("50@" + "9" * 5000, "is after 2099-12-31", id="thousands of digits"),
        pytest.param("50@\udcff", "is not UTF-8", id="bytes that are no text"),
    ],
)
def test_what_looks_like_a_time_but_is_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse_interaction(text)
    message = str(caught.value)
    assert message.startswith(repr(text))
    assert problem in message
    assert "\n" not in message


@given(st.text(max_size=12) | TIMES.map(lambda time: f"50@{time}"))
def test_any_text_is_an_interaction_or_refused(text: str) -> None:
    try:
        interaction = parse_interaction(text)
    except argparse.ArgumentTypeError:
        return
    if interaction.timestamp_ms is None:
        assert interaction.item_id == text
    else:
        assert text.startswith(f"{interaction.item_id}@")
        assert 0 <= interaction.timestamp_ms <= MAX_TIMESTAMP_MS


@given(st.integers(10**11, MAX_TIMESTAMP_MS), st.text(min_size=1, max_size=5))
def test_milliseconds_are_taken_as_they_are(timestamp_ms: int, item_id: str) -> None:
    try:
        item_id.encode()
    except UnicodeEncodeError:
        return
    expected = Interaction(item_id, timestamp_ms)
    assert parse_interaction(f"{item_id}@{timestamp_ms}") == expected
