"""The interactions of one Amazon Reviews CSV file."""

import io
from pathlib import Path

from rich.progress import Progress

from llmsrec.csv_rows import CsvRows
from llmsrec.errors import DataError
from llmsrec.interaction_log import InteractionLog
from llmsrec.source_file import opened
from llmsrec.tally import Fault, FileTally, Tally
from llmsrec.timestamps import NO_NUMBER, fault_of, parse_number

_MAX_DIGITS = 30
"""A longer number is no timestamp of any unit, and may be too long for `int`."""
_COLUMNS = ("user_id", "parent_asin", "timestamp")
_EXPECTED = "expected user_id,parent_asin,rating,timestamp in the first line, set apart by commas"
_WIDTH = Fault(
    "rows with more or fewer columns than the header",
    "write a row a line, as many columns as the header names, and quote what holds a comma",
)
_QUOTE = Fault("lines with a quotation mark that fits no row", "close each quotation mark")
_DECIMAL = "timestamps written with a point or an exponent, rounded to milliseconds"


def read_rows(path: Path, log: InteractionLog, tally: Tally, bars: Progress) -> None:
    """Add the rows of a file to `log`, apart from those that are faulty.

    Raises:
        DataError: the file cannot be read, lacks a column, or more than half of it is faulty.
    """
    file = FileTally(path, tally)
    log.begin(file)
    with (
        opened(path, bars) as binary,
        io.TextIOWrapper(binary, "utf-8-sig", "surrogateescape") as text,
    ):
        reader = CsvRows(text)
        width, places = _find_columns(path, *reader.header())
        user_place, item_place, time_place = places
        for number, row in reader.rows(width, places):
            file.num_rows += 1
            if row is None or len(row) != width or not row[time_place]:
                _leave_out(row, width, number, file)
                continue
            time = row[time_place]
            if time.isdecimal() and len(time) <= _MAX_DIGITS:
                timestamp_ms: int | None = int(time)
            else:
                timestamp_ms = _parse_odd(time, number, file)
            if timestamp_ms is not None:
                log.add(number, row[user_place], row[item_place], timestamp_ms)
    file.close("rows")
    if not file.num_rows:
        tally.noted("files that hold a header and no rows", str(path))


def _find_columns(path: Path, number: int, header: list[str]) -> tuple[int, list[int]]:
    """Give the number of columns, and the places of those that are read."""
    if not header:
        raise DataError(f"{path} is empty; {_EXPECTED}")
    for column in _COLUMNS:
        if header.count(column) != 1:
            problem = "repeats" if column in header else "lacks"
            found = ",".join(header)[:100]
            raise DataError(
                f"{path}, line {number}: the header {problem} {column}: {found!r}; {_EXPECTED}"
            )
    return len(header), [header.index(column) for column in _COLUMNS]


def _leave_out(row: list[str] | None, width: int, number: int, file: FileTally) -> None:
    if row is None:
        file.leave_out(_QUOTE, number)
    elif not any(map(str.strip, row)):
        file.blank(number)
    else:
        file.leave_out(NO_NUMBER if len(row) == width else _WIDTH, number)


def _parse_odd(text: str, number: int, file: FileTally) -> int | None:
    """Read a timestamp that is no plain row of digits."""
    try:
        timestamp_ms = round(parse_number(text))
    except ValueError:
        file.leave_out(NO_NUMBER, number)
        return None
    if not text.strip().lstrip("+-").isdecimal() and fault_of(timestamp_ms) is None:
        file.mended(_DECIMAL, number)
    return timestamp_ms
