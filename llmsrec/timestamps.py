"""Timestamps as data files hold them: milliseconds since 1970, and what is given in their place."""

from datetime import UTC, datetime

from llmsrec.prompt import MAX_TIMESTAMP_MS
from llmsrec.tally import Fault

NO_NUMBER = Fault(
    "rows whose timestamp is no number", "write timestamps as whole milliseconds since 1970 (UTC)"
)
_EXPECTED = "timestamps must be milliseconds since 1970 (UTC)"
OUT_OF_RANGE = Fault("rows of a date before 1970 or after 2099", _EXPECTED)

_FIRST_SECOND = 631_152_000
"""1990, older than any interaction. A number between this and MAX_SECOND is one of seconds."""
MAX_SECOND = MAX_TIMESTAMP_MS // 1000
"""What is above this and up to MAX_TIMESTAMP_MS is taken for milliseconds without a doubt."""
_SECONDS = Fault("rows whose timestamp is in seconds", f"{_EXPECTED}; multiply by 1,000")
_MICROSECONDS = Fault("rows whose timestamp is in microseconds", f"{_EXPECTED}; divide by 1,000")
_NANOSECONDS = Fault("rows whose timestamp is in nanoseconds", f"{_EXPECTED}; divide by 10**6")
_OTHER_UNITS = ((1, _SECONDS), (10**6, _MICROSECONDS), (10**9, _NANOSECONDS))


def parse_number(text: str) -> float:
    """Read what `float` reads, apart from digits set apart by underscores.

    Raises:
        ValueError: the text is no finite number.
    """
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"{text!r} is no finite number")
    return number


def fault_of(timestamp_ms: int) -> Fault | None:
    """Tell why a number cannot be a time in milliseconds."""
    for per_second, fault in _OTHER_UNITS:
        if _FIRST_SECOND <= timestamp_ms // per_second <= MAX_SECOND:
            return fault
    return None if 0 <= timestamp_ms <= MAX_TIMESTAMP_MS else OUT_OF_RANGE


def date_of(timestamp_ms: int) -> str:
    return f"{datetime.fromtimestamp(timestamp_ms / 1000, UTC):%Y-%m-%d}"
