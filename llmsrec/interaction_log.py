"""Interactions as columns, in the order they were read, with the file and line of each."""

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmsrec.prompt import MAX_TIMESTAMP_MS
from llmsrec.tally import Fault, FileTally
from llmsrec.timestamps import MAX_SECOND, fault_of

EMPTY_ID = Fault("rows with an empty id", "each row must name a user and an item")
UNPRINTABLE_ID = Fault(
    "rows with an id that holds control characters or is no UTF-8",
    "write the file as UTF-8 text, without control characters in ids",
)
_SPACES = "ids with spaces around them, which were removed"
_EARLY = "interactions dated January or February 1970; see that timestamps are milliseconds"

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def fault_of_id(text: str) -> Fault | None:
    if not text:
        return EMPTY_ID
    if text.isprintable() or not _UNPRINTABLE.search(text):
        return None
    return UNPRINTABLE_ID


class InteractionLog:
    """Ids are numbered as they come; users that are not wanted are passed over."""

    def __init__(self, is_wanted: Callable[[str], bool]) -> None:
        self.user_ids: list[str] = []
        self.item_ids: list[str] = []
        self.num_unwanted = 0
        self._is_wanted = is_wanted
        self._row_of_user: dict[str, int] = {}
        self._row_of_item: dict[str, int] = {}
        self._users, self._items = array("q"), array("q")
        self._timestamps_ms, self._lines = array("q"), array("q")
        self._files: list[FileTally] = []
        self._starts: list[int] = []

    def begin(self, file: FileTally) -> None:
        """Take what is added from now on for that file's."""
        self._files.append(file)
        self._starts.append(len(self._lines))

    def add(self, line: int, user_id: str, item_id: str, timestamp_ms: int) -> None:
        """Add what stands on a line of the file, or leave it out."""
        is_plain = MAX_SECOND < timestamp_ms <= MAX_TIMESTAMP_MS
        if not is_plain and not self._is_usable(timestamp_ms, line):
            return
        user = self._row_of_user.get(user_id)
        if user is None:
            user = self._number_user(user_id, line)
        if user is None:
            return
        item = self._row_of_item.get(item_id)
        if item is None:
            item = self._number(item_id, line, self._row_of_item, self.item_ids)
        if item is None:
            return
        self._users.append(user)
        self._items.append(item)
        self._timestamps_ms.append(timestamp_ms)
        self._lines.append(line)

    @property
    def users(self) -> NDArray[np.int64]:
        return np.array(self._users, np.int64)  # [M]

    @property
    def items(self) -> NDArray[np.int64]:
        return np.array(self._items, np.int64)  # [M]

    @property
    def timestamps_ms(self) -> NDArray[np.int64]:
        return np.array(self._timestamps_ms, np.int64)  # [M]

    @property
    def files(self) -> NDArray[np.int64]:
        """The number of the file that each stands in, counted from 0."""
        bounds = [*self._starts, len(self._lines)]
        return np.repeat(np.arange(len(self._starts)), np.diff(bounds))  # [M]

    def place(self, index: int) -> str:
        return self._files[bisect_right(self._starts, index) - 1].place(self._lines[index])

    def _is_usable(self, timestamp_ms: int, line: int) -> bool:
        fault = fault_of(timestamp_ms)
        if fault is not None:
            self._files[-1].leave_out(fault, line)
        else:
            self._files[-1].noted(_EARLY, line)
        return fault is None

    def _number_user(self, text: str, line: int) -> int | None:
        if text and not self._is_wanted(text.strip()):
            self.num_unwanted += 1
            return None
        return self._number(text, line, self._row_of_user, self.user_ids)

    def _number(
        self, text: str, line: int, row_of_id: dict[str, int], ids: list[str]
    ) -> int | None:
        """Number an id that is met for the first time as it is written here."""
        stripped = text.strip()
        fault = fault_of_id(stripped)
        if fault is not None:
            self._files[-1].leave_out(fault, line)
            return None
        if stripped != text:
            self._files[-1].mended(_SPACES, line)
        row = row_of_id.setdefault(stripped, len(ids))
        if row == len(ids):
            ids.append(stripped)
        row_of_id[text] = row
        return row
