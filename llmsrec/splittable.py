"""Which interactions a dataset can hold: each once, of users that can be split."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from llmsrec.dataset import MIN_SEQUENCE_LENGTH
from llmsrec.errors import DataError
from llmsrec.interaction_log import InteractionLog
from llmsrec.tally import Tally

Indexes = NDArray[np.int64]
"""Places of interactions in their log, ascending, `[n]`."""

_TWICE = "interactions that stand twice (the same user, item and time)"
_TOO_FEW = f"users with fewer than {MIN_SEQUENCE_LENGTH} interactions: to train, validate and test"
_ALL_SEEN = "users that have seen each item, so that none is left to tell from"


def without_repeats(log: InteractionLog, tally: Tally) -> Indexes:
    """Keep the first of the interactions that share user, item and time.

    Raises:
        DataError: more than half of a file's interactions stand in one before it.
    """
    columns = (log.timestamps_ms, log.items, log.users)
    order = np.lexsort(columns)  # stable: the first stays first
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    firsts = order[is_first][np.cumsum(is_first) - 1]  # [M], in the order of `order`
    repeats, originals = order[~is_first], firsts[~is_first]
    _check_files(log, repeats, originals)
    if len(repeats):
        tally.left_out(_TWICE, log.place(int(repeats.min())), len(repeats))
    return np.sort(order[is_first])


def _check_files(log: InteractionLog, repeats: Indexes, originals: Indexes) -> None:
    files = log.files
    for file, size in enumerate(np.bincount(files)):
        elsewhere = (files[repeats] == file) & (files[originals] != file)
        if 2 * np.count_nonzero(elsewhere) > size:
            first = repeats[elsewhere].argmin()
            place, original = repeats[elsewhere][first], originals[elsewhere][first]
            raise DataError(
                f"{log.place(int(place))} stands at {log.place(int(original))} already, and so do"
                f" {np.count_nonzero(elsewhere):,} of the {size:,} interactions of this file; give"
                " each split a file of its own, without the rows of the others"
            )


def splittable(log: InteractionLog, kept: Indexes, tally: Tally) -> Indexes:
    """Leave out the users who cannot be split, or for whom no negative could be drawn.

    Items that nobody else has leave with them, so that others may have seen all that remain.
    """
    users, items = log.users, log.items
    while True:
        num_of_user = np.bincount(users[kept], minlength=len(log.user_ids))
        has_few = num_of_user < MIN_SEQUENCE_LENGTH
        kept = leave_out_users(log, kept, has_few, _TOO_FEW, tally)
        pairs = np.unique(np.stack([users[kept], items[kept]]), axis=1)  # [2, P]
        num_seen = np.bincount(pairs[0], minlength=len(log.user_ids))
        has_seen_all = num_seen == len(np.unique(items[kept]))
        fewer = leave_out_users(log, kept, has_seen_all, _ALL_SEEN, tally)
        if len(fewer) == len(kept):
            return kept
        kept = fewer


def leave_out_users(
    log: InteractionLog, kept: Indexes, is_left_out: NDArray[np.bool_], what: str, tally: Tally
) -> Indexes:
    """Count the users among those kept of whom `is_left_out` [U] holds, and keep the others."""
    users = log.users[kept]
    is_gone = is_left_out[users]
    if is_gone.any():
        first = int(kept[is_gone][0])
        described = f"{log.user_ids[log.users[first]]!r}, {log.place(first)}"
        tally.left_out(what, described, len(np.unique(users[is_gone])))
    return kept[~is_gone]


def sequences_of(
    log: InteractionLog, kept: Indexes, row_of_item: Mapping[int, int]
) -> dict[str, list[tuple[int, int]]]:
    """Give the (item row, timestamp in ms) pairs of each user, in the order they were read."""
    sequences: dict[str, list[tuple[int, int]]] = {}
    columns = (log.users[kept], log.items[kept], log.timestamps_ms[kept])
    for user, item, timestamp_ms in zip(*(column.tolist() for column in columns), strict=True):
        pair = (row_of_item[item], timestamp_ms)
        sequences.setdefault(log.user_ids[user], []).append(pair)
    return sequences
