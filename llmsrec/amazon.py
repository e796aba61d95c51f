"""Amazon Reviews 2023 from the files a user has on disk, selected as the published code does.

The files are those of the last-out split: per user the last interaction stands in the test file,
the one before in the validation file. Where selection drops one of these two, the newest
interaction that is left takes its place.
"""

import hashlib
import itertools
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from llmsrec.amazon_rows import read_rows
from llmsrec.amazon_titles import read_titles
from llmsrec.catalogue import EMPTY_TITLE, CatalogueItem
from llmsrec.dataset import Dataset, build_dataset
from llmsrec.errors import DataError
from llmsrec.interaction_log import InteractionLog
from llmsrec.source_file import check_source_file
from llmsrec.splittable import (
    Indexes,
    leave_out_users,
    sequences_of,
    splittable,
    without_repeats,
)
from llmsrec.tally import Tally

SAMPLE_RATE_OF_CATEGORY = {
    "Movies_and_TV": 0.05,
    "Electronics": 0.05,
    "Industrial_and_Scientific": 1.0,
    "CDs_and_Vinyl": 0.33,
}
"""The share of users that the published results were measured on."""


class AmazonFiles(NamedTuple):
    """CSV files and JSON lines, each as it is or compressed by gzip."""

    train: Path
    valid: Path
    test: Path
    metadata: Path


class Selection(NamedTuple):
    sample_rate: float
    seed: int = 0
    min_interactions: int = 5
    """An item of fewer interactions is left out, and a user whose training part then has fewer."""


def load_amazon(
    name: str, files: AmazonFiles, selection: Selection, tally: Tally, bars: Progress
) -> Dataset:
    """Read the sampled users' interactions and the titles of the items among them.

    What is faulty is left out, or mended, and counted in `tally`.

    Raises:
        DataError: a file is faulty for the most part, two are the same, or no user is left.
    """
    _check_files(files)
    log = InteractionLog(partial(_is_sampled, selection))
    for path in (files.train, files.valid, files.test):
        read_rows(path, log, tally, bars)
    _note_swapped(log, files, tally)
    if log.num_unwanted:
        tally.read.append(
            f"{log.num_unwanted:,} of these rows are of users outside the sample,"
            f" a share of {selection.sample_rate:g}"
        )
    kept = splittable(log, _select(log, selection.min_interactions, tally), tally)
    if not len(kept):
        raise DataError(
            f"{name}: no user is left; give more data, a higher --sample-rate or a lower"
            f" --min-interactions ({'; '.join(tally.lines())})"
        )
    items = list(dict.fromkeys(log.items[kept].tolist()))
    ids = [log.item_ids[item] for item in items]
    title_of_id = read_titles(files.metadata, frozenset(ids), tally, bars)
    catalogue = [CatalogueItem(item_id, title_of_id.get(item_id, EMPTY_TITLE)) for item_id in ids]
    row_of_item = {item: row for row, item in enumerate(items)}
    return build_dataset(name, catalogue, sequences_of(log, kept, row_of_item), selection.seed)


def _check_files(files: AmazonFiles) -> None:
    given = [(f"--{option}", path) for option, path in files._asdict().items()]
    for option, path in given:
        check_source_file(path, option)
    for (option, path), (other, other_path) in itertools.combinations(given, 2):
        if path.samefile(other_path):
            raise DataError(f"{path} is given for {option} and {other}; each is a file of its own")


def _note_swapped(log: InteractionLog, files: AmazonFiles, tally: Tally) -> None:
    """Note where most users' interactions of a split are newer than those of a later one.

    The dataset is split by time alone, but what counts as training is what the train file holds.
    """
    newest = np.full((3, len(log.user_ids)), -1, np.int64)
    np.maximum.at(newest, (log.files, log.users), log.timestamps_ms)
    for earlier, later in itertools.combinations(range(3), 2):
        is_in_both = (newest[earlier] >= 0) & (newest[later] >= 0)
        is_newer = is_in_both & (newest[earlier] > newest[later])
        if 2 * np.count_nonzero(is_newer) > np.count_nonzero(is_in_both):
            what = f"users with newer interactions in {files[earlier]} than in {files[later]}"
            row = int(np.argmax(is_newer))
            remedy = "expected a last-out split; see that the files are not swapped"
            first = repr(log.user_ids[row])
            tally.noted(f"{what}; {remedy}", first, int(np.count_nonzero(is_newer)))


def _is_sampled(selection: Selection, user_id: str) -> bool:
    """Decide by a hash, so that the choice needs no second pass and no order of the rows."""
    text = f"{selection.seed} {user_id}".encode(errors="surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest) < selection.sample_rate * 2**64


def _select(log: InteractionLog, min_interactions: int, tally: Tally) -> Indexes:
    """Drop rare items, counted over all splits, then users left with little to train on."""
    kept = without_repeats(log, tally)
    num_of_item = np.bincount(log.items[kept], minlength=len(log.item_ids))
    is_rare = (num_of_item < min_interactions)[log.items]  # [M]
    if is_rare[kept].any():
        first = int(kept[is_rare[kept]][0])
        tally.left_out(
            f"items with fewer than {min_interactions} interactions (--min-interactions)",
            f"{log.item_ids[log.items[first]]!r}, {log.place(first)}",
            int(np.count_nonzero(num_of_item < min_interactions)),
        )
    training = kept[(log.files[kept] == 0) & ~is_rare[kept]]
    num_training = np.bincount(log.users[training], minlength=len(log.user_ids))
    has_few = num_training < min_interactions
    what = f"users with fewer than {min_interactions} interactions to train (--min-interactions)"
    kept = leave_out_users(log, kept, has_few, what, tally)
    return kept[~is_rare[kept]]
