"""Rows of a CSV file by line number, where a stray quote costs one line and not the rest."""

import csv
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

_MAX_LINES_OF_ROW = 1000
_Line = tuple[int, str]


class CsvRows:
    """Reads lines that end in a newline character; line numbers count from 1."""

    def __init__(self, lines: Iterator[str]) -> None:
        csv.field_size_limit(sys.maxsize)  # a history column may be long
        self._source = enumerate(lines, start=1)
        self._again: deque[_Line] = deque()

    def header(self) -> tuple[int, list[str]]:
        """Give the first row that is not empty, or the number 0 and no cells at the file's end."""
        for number, line in self._source:
            if line.strip():
                cells = next(csv.reader([line]))
                return number, [cell.strip() for cell in cells]
        return 0, []

    def rows(self, width: int, places: Sequence[int]) -> Iterator[tuple[int, list[str] | None]]:
        """Give the rows after the header, or None for a line whose quotes fit no row.

        A row goes on over several lines only where it then has `width` cells and those at `places`
        hold no line break: elsewhere a quote was not closed, and the first line alone is faulty.
        """
        while (following := self._next_line()) is not None:
            number, line = following
            if '"' not in line:
                yield number, line.rstrip("\n").split(",")
            else:
                yield number, self._read_quoted(following, width, places)

    def _next_line(self) -> _Line | None:
        return self._again.popleft() if self._again else next(self._source, None)

    def _read_quoted(self, first: _Line, width: int, places: Sequence[int]) -> list[str] | None:
        row = _read_row([first[1]])
        if row is not None:
            return row
        taken: list[_Line] = []
        row = _read_row(self._lines_from(first, taken))
        if row and len(row) == width and not any("\n" in row[place] for place in places):
            return row
        self._again.extendleft(reversed(taken[1:]))
        return None

    def _lines_from(self, first: _Line, taken: list[_Line]) -> Iterator[str]:
        following: _Line | None = first
        while following is not None and len(taken) < _MAX_LINES_OF_ROW:
            taken.append(following)
            yield following[1]
            following = self._next_line()
        if following is not None:
            self._again.appendleft(following)


def _read_row(lines: Iterable[str]) -> list[str] | None:
    """Read one row, or find that its quotes are wrong or not closed."""
    try:
        return next(csv.reader(lines, strict=True), None)
    except csv.Error:
        return None
