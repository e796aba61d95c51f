"""A prepared dataset on disk.

dataset.json               schema version, name, counts, SHA-256 of every other file
catalogue.jsonl            id, title, attributes of each item row
users.json                 the id of each user row
interactions.safetensors   offsets [U + 1], item_rows [M], timestamps_ms [M]
negatives.safetensors      validation [U, 99], test [U, 99]
"""

import os
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


def check_replaceable(path: Path) -> None:
    """Find out whether a dataset may be written to `path`.

    Raises:
        DataError: something other than an older dataset or an empty directory stands there.
    """
    remedy = "remove it or name another --output"
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            raise DataError(f"{path} exists and is no dataset; {remedy}")
        _check_parent(path)
        return
    names = {file.name for file in path.iterdir()}
    if names and not _is_header(path / _HEADER):
        raise DataError(f"{path} exists and is no dataset; {remedy}")
    if foreign := names - {_HEADER, _CATALOGUE, _USERS, _INTERACTIONS, _NEGATIVES}:
        raise DataError(
            f"{path} holds {min(foreign)!r} beside a dataset, which would be lost;"
            " move it or name another --output"
        )


def write(
    path: Path,
    name: str,
    user_ids: Sequence[str],
    catalogue: Sequence[CatalogueItem],
    arrays: Arrays,
) -> None:
    """Write aside, then put the whole directory in place of an older dataset."""
    check_replaceable(path)
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


def _check_parent(path: Path) -> None:
    """Check the nearest folder that exists above a dataset that is not there yet."""
    parent = next(parent for parent in path.resolve().parents if parent.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise DataError(f"{path} cannot be written below {parent}; name another --output")


def _is_header(file: Path) -> bool:
    """Tell a header of any schema version from another program's file of that name."""
    try:
        header = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError, RecursionError):
        return False
    return "schema_version" in header and "sha256_of_file" in header


def _read_header(path: Path) -> Header:
    file = path / _HEADER
    try:
        header = msgspec.json.decode(file.read_bytes(), type=Header)
    except OSError as error:
        raise DataError(f"{path} holds no dataset ({_HEADER}: {error.strerror})") from error
    except (ValueError, RecursionError) as error:
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
