"""The catalogue: one JSON line per item, whose order gives the item rows from 0."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from llmsrec.errors import DataError
from llmsrec.files import written_aside

EMPTY_TITLE = "Empty title"
"""The title of an item whose metadata gives none. Source: the published LLM-SRec code."""


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    id: str
    title: str
    attributes: dict[str, str | list[str]] = field(default_factory=dict)


def write_catalogue(path: Path, items: Iterable[CatalogueItem]) -> None:
    """Write `items` in the order of their rows.

    Raises:
        DataError: an id occurs twice.
    """
    row_of_id: dict[str, int] = {}
    with written_aside(path) as aside, aside.open("wb") as file:
        for row, item in enumerate(items):
            first_row = row_of_id.setdefault(item.id, row)
            if first_row != row:
                raise DataError(
                    f"{path}: rows {first_row} and {row} would share the id {item.id!r}"
                )
            file.write(msgspec.json.encode(item) + b"\n")


def read_catalogue(path: Path) -> list[CatalogueItem]:
    """Read a catalogue; the place in the list is the item row.

    Raises:
        DataError: the file cannot be read, or a line is no item or repeats an id.
    """
    decoder = msgspec.json.Decoder(CatalogueItem)
    line_of_id: dict[str, int] = {}
    items: list[CatalogueItem] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                item = decoder.decode(line)
                first_line = line_of_id.setdefault(item.id, number)
                if first_line != number:
                    raise DataError(
                        f"{path}: lines {first_line} and {number} share the id {item.id!r}; "
                        "an id names one item"
                    )
                items.append(item)
    except OSError as error:
        raise DataError(f"cannot read the catalogue {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f'{path}, line {len(items) + 1}: {error}; expected {{"id", "title", "attributes"}}'
        ) from error
    return items
