"""A bundle in memory: its catalogue, item tables and prompt fragments, verified when opened.

manifest.json          versions, backend, precision, parity, SHA-256 of every other file
encoder.onnx, *.data   the encoder graph and its weights
catalogue.jsonl        id, title, attributes of each item row
items.safetensors      item_table [N, 64], item_vectors [N, D]
prompt.safetensors     the prompt fragments
probes.json            histories and the vectors that this bundle gave when it was built
tokenizer.json         the tokenizer that made the fragments
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engine.bundle.held import VerifiedFiles
from engine.bundle.manifest import (
    GRAPH_FILE,
    WEIGHTS_FILE,
    Manifest,
    read_manifest,
    verify_files,
)
from engine.catalogue.snapshot import Catalogue
from engine.errors import BundleError
from engine.prompts.fragments import Fragments

CATALOGUE_FILE = "catalogue.jsonl"
ITEMS_FILE = "items.safetensors"
FRAGMENTS_FILE = "prompt.safetensors"
TOKENIZER_FILE = "tokenizer.json"


class _Item(msgspec.Struct, frozen=True):
    id: str
    title: str


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    path: Path
    manifest: Manifest
    files: VerifiedFiles
    catalogue: Catalogue
    item_table: NDArray[np.float32]  # [N, 64]
    fragments: Fragments


def open_bundle(path: Path) -> Bundle:
    """Verify and load a bundle.

    Raises:
        BundleError: it is missing, damaged, or of a release that this one cannot serve.
    """
    manifest = read_manifest(path)
    files = verify_files(path, manifest)
    _require_weights_near_graph(path)
    try:
        lines = (path / CATALOGUE_FILE).read_bytes().splitlines()
        listed = [msgspec.json.decode(line, type=_Item) for line in lines]
        items = load_file(path / ITEMS_FILE)
        fragments = Fragments.from_arrays(load_file(path / FRAGMENTS_FILE))
        table, vectors = items["item_table"], items["item_vectors"]
    except (OSError, KeyError, ValueError, msgspec.DecodeError, SafetensorError) as error:
        files.require_unchanged()
        raise BundleError(
            f"{path} does not hold what its manifest promises ({error!r}); build it again"
        ) from error
    if not len(listed) == len(table) == len(vectors) == manifest.num_items:
        raise BundleError(
            f"{path}: {len(listed)} catalogue items, {len(table)} table rows and {len(vectors)}"
            f" vectors for {manifest.num_items} items; build the bundle again"
        )
    return Bundle(
        path=path,
        manifest=manifest,
        files=files,
        catalogue=Catalogue(
            version=manifest.catalogue_version,
            item_ids=[item.id for item in listed],
            titles=[item.title for item in listed],
            row_of_id={item.id: row for row, item in enumerate(listed)},
            item_vectors=vectors,
        ),
        item_table=table,
        fragments=fragments,
    )


def _require_weights_near_graph(path: Path) -> None:
    """Refuse a link that ONNX Runtime does not follow: one out of the graph's folder."""
    weights = (path / WEIGHTS_FILE).resolve()
    folders = [path.resolve(), (path / GRAPH_FILE).resolve().parent]
    if not any(weights.is_relative_to(folder) for folder in folders):
        raise BundleError(
            f"{path / WEIGHTS_FILE} is a link to {weights}, out of the folder of {GRAPH_FILE}; copy"
            f" what the links name: cp -rL {path} COPY"
        )
