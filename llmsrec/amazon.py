"""Amazon Reviews 2023 from the files a user has on disk, selected as the published code does.

The files are those of the last-out split: per user the last interaction stands in the test file,
the one before in the validation file. Where selection drops one of these two, the newest
interaction that is left takes its place.
"""

import csv
import gzip
import hashlib
import io
import itertools
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import msgspec
from rich.progress import Progress

from llmsrec.catalogue import EMPTY_TITLE, CatalogueItem
from llmsrec.dataset import Dataset, build_dataset
from llmsrec.errors import DataError

SAMPLE_RATE_OF_CATEGORY = {
    "Movies_and_TV": 0.05,
    "Electronics": 0.05,
    "Industrial_and_Scientific": 1.0,
    "CDs_and_Vinyl": 0.33,
}
"""The share of users that the published results were measured on."""

_COLUMNS = ("user_id", "parent_asin", "timestamp")
_EXPECTED_ROW = "expected user_id, parent_asin, rating and timestamp in milliseconds"
_EXPECTED_METADATA = "expected one JSON object a line with parent_asin and title"


class AmazonFiles(NamedTuple):
    """CSV files and JSON lines, each as it is or compressed (`.gz`)."""

    train: Path
    valid: Path
    test: Path
    metadata: Path


class Selection(NamedTuple):
    sample_rate: float
    seed: int = 0
    min_interactions: int = 5
    """An item of fewer interactions is left out, and a user whose training part then has fewer."""


class _Interaction(NamedTuple):
    user_id: str
    item_id: str
    timestamp_ms: int


class _Metadata(msgspec.Struct):
    parent_asin: str
    title: str | None = None


def load_amazon(name: str, files: AmazonFiles, selection: Selection, bars: Progress) -> Dataset:
    """Read the sampled users' interactions and the titles of the items among them.

    Raises:
        DataError: a row is malformed, or no user is left.
    """
    splits = [
        [row for row in _read_interactions(path, bars) if _is_sampled(row.user_id, selection)]
        for path in (files.train, files.valid, files.test)
    ]
    kept = _select(splits, selection.min_interactions)
    item_ids = list(dict.fromkeys(row.item_id for row in kept))
    row_of_id = {item_id: row for row, item_id in enumerate(item_ids)}
    title_of_id = {
        line.parent_asin: line.title
        for line in _read_metadata(files.metadata, bars)
        if line.parent_asin in row_of_id and line.title and line.title.strip()
    }
    catalogue = [
        CatalogueItem(item_id, title_of_id.get(item_id) or EMPTY_TITLE) for item_id in item_ids
    ]
    sequences: dict[str, list[tuple[int, int]]] = {}
    for row in kept:
        sequences.setdefault(row.user_id, []).append((row_of_id[row.item_id], row.timestamp_ms))
    return build_dataset(name, catalogue, sequences, selection.seed)


def _is_sampled(user_id: str, selection: Selection) -> bool:
    """Decide by a hash, so that the choice needs no second pass and no order of the rows."""
    digest = hashlib.blake2b(f"{selection.seed} {user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < selection.sample_rate * 2**64


def _select(splits: list[list[_Interaction]], min_interactions: int) -> list[_Interaction]:
    """Drop rare items, counted over all splits, then users left with little to train on."""
    num_of_item = Counter(row.item_id for row in itertools.chain(*splits))
    frequent = [
        [row for row in split if num_of_item[row.item_id] >= min_interactions] for split in splits
    ]
    num_training = Counter(row.user_id for row in frequent[0])
    return [
        row for row in itertools.chain(*frequent) if num_training[row.user_id] >= min_interactions
    ]


def _read_interactions(path: Path, bars: Progress) -> Iterator[_Interaction]:
    csv.field_size_limit(sys.maxsize)  # a history column may be long
    with _opened(path, bars) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            places = _find_columns(next(reader, []))
            for row in reader:
                yield _parse(row, places)
        except (csv.Error, ValueError) as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}; {_EXPECTED_ROW}") from error


def _find_columns(header: list[str]) -> list[int]:
    for column in _COLUMNS:
        if column not in header:
            raise ValueError(f"the header lacks {column}")
    return [header.index(column) for column in _COLUMNS]


def _parse(row: list[str], places: list[int]) -> _Interaction:
    if len(row) <= max(places):
        raise ValueError(f"only {len(row)} columns")
    user_id, item_id, timestamp_ms = (row[place] for place in places)
    if not user_id or not item_id:
        raise ValueError("an id is empty")
    return _Interaction(sys.intern(user_id), sys.intern(item_id), int(timestamp_ms))


def _read_metadata(path: Path, bars: Progress) -> Iterator[_Metadata]:
    decoder = msgspec.json.Decoder(_Metadata)
    with _opened(path, bars) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield decoder.decode(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}; {_EXPECTED_METADATA}") from error


@contextmanager
def _opened(path: Path, bars: Progress) -> Iterator[BinaryIO]:
    """Open a file, compressed or not, with a bar that shows how much of it was read."""
    try:
        with bars.open(path, "rb", description=path.name) as packed:
            if path.suffix == ".gz":
                with gzip.open(packed) as unpacked:
                    yield cast("BinaryIO", unpacked)
            else:
                yield packed
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}); download it again") from error
