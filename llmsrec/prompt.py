"""The LLM-SRec prompts: one template for training, export and serving, so that none can drift.

A prompt is text with slots. What stands between two slots is one segment, tokenised as a whole;
a slot takes one position, filled by a vector instead of a token embedding:

    segment  slot(item)  segment  slot(item)  …  segment  slot(readout)

A user's segment is itself a join of pieces (head, date, title) that serving tokenises once per
item. Source: the published LLM-SRec code's prompts, without a chat template.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

TEMPLATE_VERSION = 1
SEGMENTS_TEMPLATE_VERSION = 2
"""Of segments: an item's text and its slot, read alone, and one token that reads out a user's."""
MAX_INTERACTIONS = 10
MAX_PROMPT_TOKENS = 1024
MAX_CLIPPED_TITLE_TOKENS = 64

TEXT_SLOT = 0
"""Slot id of a position that holds a text token; an item's slot id is its row + 1."""
USER_READOUT_SLOT = -1
ITEM_READOUT_SLOT = -2

MS_PER_DAY = 86_400_000
MAX_TIMESTAMP_MS = 4_102_444_799_999
"""The last millisecond of 2099, the newest date that a prompt can hold."""
TIMES_IN_SECONDS = range(100_000_000, MAX_TIMESTAMP_MS // 1000 + 1)
"""Seconds from 1973 to 2099; as milliseconds they would all lie in the first weeks of 1970."""

_USER_OPENING = "This user has made a series of purchases in the following order: "
_USER_CLOSING = ". Based on this sequence of purchases, generate user representation token:"
_ITEM_OPENING = "The item title and item embedding are as follows: "
_ITEM_CLOSING = ", then generate item representation token:"
_UNKNOWN_DATE = " unknown"


def number_piece(number: int) -> str:
    """Open the entry of the `number`-th interaction, counted from 1."""
    opening = _USER_OPENING if number == 1 else ","
    return f"{opening}Item No.{number}, Time:"


def date_piece(timestamp_ms: int | None) -> str:
    """Give the UTC date of an interaction, or the text that stands for a missing one."""
    if timestamp_ms is None:
        return _UNKNOWN_DATE
    return f" {datetime.fromtimestamp(timestamp_ms // 1000, UTC):%Y-%m-%d}"


def date_row(timestamp_ms: int | None) -> int:
    """Give the row of a timestamp's date among all dates, where 0 is the missing one."""
    return 0 if timestamp_ms is None else 1 + timestamp_ms // MS_PER_DAY


def date_pieces() -> list[str]:
    """Give the text of every date that a prompt can hold, in the order of their rows."""
    days = range(0, MAX_TIMESTAMP_MS, MS_PER_DAY)
    return [date_piece(None), *map(date_piece, days)]


def title_piece(title: str) -> str:
    return f', "{title}"'


def closing_piece() -> str:
    return _USER_CLOSING


def user_segments(titles: Sequence[str], timestamps_ms: Sequence[int | None]) -> list[str]:
    """Give the len(titles) + 1 texts around a user's slots, oldest interaction first."""
    entries = [
        number_piece(number) + date_piece(timestamp_ms) + title_piece(title)
        for number, (title, timestamp_ms) in enumerate(
            zip(titles, timestamps_ms, strict=True), start=1
        )
    ]
    return [*entries, _USER_CLOSING]


def item_segments(title: str) -> list[str]:
    """Give the two texts around an item's slot."""
    return [f'{_ITEM_OPENING}"{title}"', _ITEM_CLOSING]


def plan_window(num_interactions: int, num_tokens: Callable[[int, bool], int]) -> tuple[int, bool]:
    """Decide how many of the newest interactions a prompt holds, and whether titles are clipped.

    `num_tokens(kept, clipped)` is the length of the prompt. Long titles are clipped before any
    interaction is dropped, the oldest interaction goes first, and the tail always stays.
    """
    kept = min(num_interactions, MAX_INTERACTIONS)
    if num_tokens(kept, False) <= MAX_PROMPT_TOKENS:
        return kept, False
    while kept > 1 and num_tokens(kept, True) > MAX_PROMPT_TOKENS:
        kept -= 1
    return kept, True


def segment_text(title: str) -> str:
    """Give the text before an item's slot where each item is read alone."""
    return f'"{title}",'
