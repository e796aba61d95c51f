"""What preparing read, left out and mended: counted per reason, with where each was met first."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llmsrec.errors import DataError


class Fault(NamedTuple):
    """Why something is left out, and what to do where most of a file has it."""

    text: str
    remedy: str


@dataclass
class _Met:
    first: str
    num: int


@dataclass
class Tally:
    """The lines of a summary, in the order in which their matters were met."""

    read: list[str] = field(default_factory=list)
    _met: dict[tuple[str, str], _Met] = field(default_factory=dict)

    def left_out(self, what: str, first: str, num: int = 1) -> None:
        self._count("left out", what, first, num)

    def mended(self, what: str, first: str, num: int = 1) -> None:
        self._count("mended", what, first, num)

    def noted(self, what: str, first: str, num: int = 1) -> None:
        """Count what is kept as it is, but should be looked at."""
        self._count("note", what, first, num)

    def lines(self) -> list[str]:
        counted = [
            f"{kind}: {what}: {met.num:,} (first: {met.first})"
            for (kind, what), met in self._met.items()
        ]
        return [f"read: {line}" for line in self.read] + counted

    def _count(self, kind: str, what: str, first: str, num: int) -> None:
        if num:
            self._met.setdefault((kind, what), _Met(first, 0)).num += num


class FileTally:
    """The faulty rows of one file, which is refused as a whole where they are the most of it."""

    def __init__(self, path: Path, tally: Tally) -> None:
        self.path = path
        self.num_rows = 0
        self._tally = tally
        self._met: dict[Fault, _Met] = {}

    def place(self, number: int) -> str:
        return f"{self.path}, line {number}"

    def leave_out(self, fault: Fault, number: int) -> None:
        self._met.setdefault(fault, _Met(self.place(number), 0)).num += 1

    def blank(self, number: int) -> None:
        """Count an empty line, which is no row."""
        self.num_rows -= 1
        self._tally.left_out("empty lines", self.place(number))

    def mended(self, what: str, number: int) -> None:
        self._tally.mended(what, self.place(number))

    def noted(self, what: str, number: int) -> None:
        self._tally.noted(what, self.place(number))

    def close(self, kind: str) -> None:
        """Hand over the counts of a file that was read to its end.

        Raises:
            DataError: more than half of its rows are faulty.
        """
        num_faulty = sum(met.num for met in self._met.values())
        if 2 * num_faulty > self.num_rows:
            fault, met = max(self._met.items(), key=lambda item: item[1].num)
            raise DataError(
                f"{met.first}: the first of {met.num:,} {fault.text}; {num_faulty:,} of the file's"
                f" {self.num_rows:,} {kind} are faulty, more than half, so it is refused:"
                f" {fault.remedy}"
            )
        self._tally.read.append(f"{self.path}: {self.num_rows:,} {kind}")
        for fault, met in self._met.items():
            self._tally.left_out(fault.text, met.first, met.num)
