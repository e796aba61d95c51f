"""Reads an interaction as it is typed: an item id and, where one follows, its time."""

import argparse
import re
from datetime import UTC, datetime
from typing import Never

from engine.request import Interaction
from llmsrec.prompt import MAX_TIMESTAMP_MS

MIN_TIMESTAMP_MS = 100_000_000_000
"""1973-03-03. A smaller number is of seconds, or a year or day as digits, not of milliseconds."""

_NUMBER = re.compile(r"\d+", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_LOOKS_LIKE_A_TIME = re.compile(
    r"""\s*(
        [+-]?\d+                                    # a number, of whichever unit and sign
      | [+-]?\d+(\.\d*)?[eE][+-]?\d+ | \d{9,}\.\d*  # as a float is written
      | \d{1,4}[-/]\d{1,2}([-/]\d{1,4})?([TZ+\s].*)?  # 1997-1-2, 11/22/1997, with a time of day
      | \d{4}-?W\d{2}(-?\d)?                       # 1997-W47-4
      | \d{1,3}([_,']\d{3})+                       # 880,156,800,000
      | \d{1,2}\.\d{1,2}\.\d{4}([T\s].*)?           # 22.11.1997
      | \d{1,2}:\d{2}(:\d{2}.*)?                    # a time of day alone
    )\s*""",
    re.ASCII | re.VERBOSE | re.DOTALL,
)
_FORM = "write ID@YYYY-MM-DD or milliseconds since 1970; an id that ends so needs a time of its own"


def parse_interaction(text: str) -> Interaction:
    """Split `ID[@TIME]` at its last @ where what follows is or looks like a time."""
    item_id, _, time = text.rpartition("@")
    if not item_id or not _LOOKS_LIKE_A_TIME.fullmatch(time):
        return Interaction(parse_item_id(text))
    return Interaction(parse_item_id(item_id), _parse_time(text, time))


def parse_item_id(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an item id is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(text, "the id is not UTF-8; mend how it is written")
    return text


def _parse_time(text: str, time: str) -> int:
    timestamp_ms = _parse_date(text, time)
    if timestamp_ms is None:
        timestamp_ms = _parse_number(text, time)
    if timestamp_ms > MAX_TIMESTAMP_MS:
        last = _date_of(MAX_TIMESTAMP_MS)
        _refuse(text, f"{time} is after {last}, in milliseconds {MAX_TIMESTAMP_MS}; {_FORM}")
    return timestamp_ms


def _parse_date(text: str, time: str) -> int | None:
    """Read a date; None where the time is written otherwise."""
    if not _DATE.fullmatch(time):
        return None
    try:
        midnight = datetime.fromisoformat(time).replace(tzinfo=UTC)
    except ValueError:
        _refuse(text, f"there is no day {time}; {_FORM}")
    if midnight.year < 1970:
        _refuse(text, f"{time} is before 1970; leave the time out or give a later one")
    return int(midnight.timestamp()) * 1000


def _parse_number(text: str, time: str) -> int:
    """Read milliseconds; 0 is 1970 in every unit."""
    if not _NUMBER.fullmatch(time):
        _refuse(text, f"{time!r} is no time that is understood; {_FORM}")
    digits = time.lstrip("0") or "0"
    timestamp_ms = int(digits) if len(digits) < 20 else MAX_TIMESTAMP_MS + 1
    if 0 < timestamp_ms < MIN_TIMESTAMP_MS:
        if_seconds = f"if it is in seconds, write {timestamp_ms}000; " if len(digits) > 8 else ""
        day = _date_of(timestamp_ms)
        _refuse(text, f"{time} would be {day} in milliseconds; {if_seconds}{_FORM}")
    return timestamp_ms


def _date_of(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms // 1000, UTC).date().isoformat()


def _refuse(text: str, problem: str) -> Never:
    raise argparse.ArgumentTypeError(f"{text!r}: {problem}")
