"""Joins fragments to the token ids of a user's prompt: no text, no tokenizer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.prompts.fragments import Fragments, Ragged
from engine.query import Prompt
from llmsrec import prompt

_SLOT = np.zeros(1, np.int32)
"""The token id at a slot; its embedding is never looked at."""


def join(
    fragments: Fragments, item_rows: Sequence[int], timestamps_ms: Sequence[int | None]
) -> tuple[Prompt, int]:
    """Write the newest interactions, oldest first; also give how many the prompt holds.

    Equal to tokenising the whole text, see `export.fragments`. Timestamps lie within
    `llmsrec.prompt.MAX_TIMESTAMP_MS`, rows within the catalogue.
    """
    rows = item_rows[-prompt.MAX_INTERACTIONS :]
    days = [prompt.date_row(time_ms) for time_ms in timestamps_ms[-prompt.MAX_INTERACTIONS :]]

    def num_tokens(kept: int, clip: bool) -> int:  # noqa: FBT001
        titles = fragments.clipped_titles if clip else fragments.titles
        entries = zip(range(kept), days[-kept:], rows[-kept:], strict=True)
        lengths = (
            fragments.numbers.length(number) + fragments.dates.length(day) + titles.length(row) + 1
            for number, day, row in entries
        )
        return sum(lengths) + fragments.closing.length(0) + 1

    kept, clip = prompt.plan_window(len(rows), num_tokens)
    titles = fragments.clipped_titles if clip else fragments.titles
    return _join_pieces(fragments, titles, rows[-kept:], days[-kept:]), kept


def _join_pieces(
    fragments: Fragments, titles: Ragged, rows: Sequence[int], days: Sequence[int]
) -> Prompt:
    pieces: list[NDArray[np.int32]] = []
    for number, (row, day) in enumerate(zip(rows, days, strict=True)):
        pieces += (
            fragments.numbers.row(number),
            fragments.dates.row(day),
            titles.row(row),
            _SLOT,
        )
    pieces += (fragments.closing.row(0), _SLOT)
    token_ids = np.concatenate(pieces)  # [T]
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    slot_ids = np.zeros_like(token_ids)  # [T]
    slot_ids[ends[3::4]] = np.array(rows, np.int32) + 1
    slot_ids[-1] = prompt.USER_READOUT_SLOT
    return Prompt(token_ids, slot_ids)
