"""A prepared dataset on disk.

dataset.json               schema version, name, counts, SHA-256 of every other file
catalogue.jsonl            id, title, attributes of each item row
users.json                 the id of each user row
interactions.safetensors   offsets [U + 1], item_rows [M], timestamps_ms [M]
negatives.safetensors      validation [U, 99], test [U, 99]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from llmsrec.catalogue import CatalogueItem, read_catalogue, write_catalogue
from llmsrec.errors import DataError
from llmsrec.files import replaced_whole, sha256_of_file

SCHEMA_VERSION = 1
ARRAY_NAMES = (
    "offsets",
    "item_rows",
    "timestamps_ms",
    "validation_negatives",
    "test_negatives",
)

Arrays = dict[str, NDArray[Any]]

_HEADER = "dataset.json"
_CATALOGUE = "catalogue.jsonl"
_USERS = "users.json"
_INTERACTIONS = "interactions.safetensors"
_NEGATIVES = "negatives.safetensors"
_PREPARE_AGAIN = "prepare the dataset again"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    name: str
    num_users: int
    num_items: int
    num_interactions: int
    sha256_of_file: dict[str, str]


def write(
    path: Path,
    name: str,
    user_ids: Sequence[str],
    catalogue: Sequence[CatalogueItem],
    arrays: Arrays,
) -> None:
    """Write aside, then put the whole directory in place of an older dataset."""
    if path.exists() and any(path.iterdir()) and not (path / _HEADER).is_file():
        raise DataError(f"{path} exists and is no dataset; remove it or name another --output")
    with replaced_whole(path) as aside:
        _write_into(aside, name, user_ids, catalogue, arrays)


def read(path: Path) -> tuple[str, list[str], list[CatalogueItem], Arrays]:
    """Give the name, user ids, catalogue and arrays of a whole, undamaged dataset."""
    header = _read_header(path)
    for file, digest in header.sha256_of_file.items():
        _check_digest(path / file, digest)
    arrays = load_file(path / _INTERACTIONS)
    for split, negatives in load_file(path / _NEGATIVES).items():
        arrays[f"{split}_negatives"] = negatives
    user_ids = msgspec.json.decode((path / _USERS).read_bytes(), type=list[str])
    return header.name, user_ids, read_catalogue(path / _CATALOGUE), arrays


def _write_into(
    folder: Path,
    name: str,
    user_ids: Sequence[str],
    catalogue: Sequence[CatalogueItem],
    arrays: Arrays,
) -> None:
    write_catalogue(folder / _CATALOGUE, catalogue)
    (folder / _USERS).write_bytes(msgspec.json.encode(user_ids))
    interactions = {key: arrays[key] for key in ("offsets", "item_rows", "timestamps_ms")}
    (folder / _INTERACTIONS).write_bytes(save(interactions))
    negatives = {split: arrays[f"{split}_negatives"] for split in ("validation", "test")}
    (folder / _NEGATIVES).write_bytes(save(negatives))
    header = Header(
        name=name,
        num_users=len(user_ids),
        num_items=len(catalogue),
        num_interactions=len(arrays["item_rows"]),
        sha256_of_file={file.name: sha256_of_file(file) for file in sorted(folder.iterdir())},
    )
    (folder / _HEADER).write_bytes(msgspec.json.format(msgspec.json.encode(header), indent=2))


def _read_header(path: Path) -> Header:
    file = path / _HEADER
    try:
        header = msgspec.json.decode(file.read_bytes(), type=Header)
    except OSError as error:
        raise DataError(f"{path} holds no dataset ({_HEADER}: {error.strerror})") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{file}: {error}; {_PREPARE_AGAIN}") from error
    if header.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"{file}: schema version {header.schema_version}, but this release reads"
            f" {SCHEMA_VERSION}; {_PREPARE_AGAIN}"
        )
    return header


def _check_digest(file: Path, digest: str) -> None:
    try:
        found = sha256_of_file(file)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; {_PREPARE_AGAIN}") from error
    if found != digest:
        raise DataError(f"{file} is damaged: its SHA-256 differs; {_PREPARE_AGAIN}")
