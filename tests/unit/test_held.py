"""What was verified is what is served, whatever happens to the files later."""

import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from engine import Interaction, Recommender, RecommendRequest
from engine.bundle.held import MAPPINGS, VerifiedFiles, read_state
from engine.bundle.manifest import GRAPH_FILE, MANIFEST_FILE, WEIGHTS_FILE
from engine.bundle.opened import CATALOGUE_FILE, open_bundle
from engine.errors import BundleError

REQUEST = RecommendRequest([Interaction("1"), Interaction("2")])


@pytest.fixture
def bundle(reference_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reference_bundle, tmp_path / "bundle")


@pytest.mark.parametrize("mode", ["c", "r"], ids=["private", "shared"])
@pytest.mark.parametrize("name", ["weights", "line\nbreak", "sp ace"])
def test_mapping_keeps_its_content_when_its_file_changes(
    tmp_path: Path, mode: Literal["c", "r"], name: str
) -> None:
    path = tmp_path / name
    content = np.arange(5_000, dtype=np.int32)
    path.write_bytes(content.tobytes())
    mapped = np.memmap(path, np.int32, mode)
    VerifiedFiles(tmp_path, {name: read_state(path)}).hold()
    path.write_bytes(bytes(content.nbytes))
    os.truncate(path, 0)
    assert (mapped == content).all()


def test_nothing_of_a_bundle_stays_mapped(bundle: Path) -> None:
    recommender = Recommender.open(bundle)
    assert str(bundle) not in MAPPINGS.read_text()
    (before,) = recommender.recommend([REQUEST])
    shutil.rmtree(bundle)
    (after,) = recommender.recommend([REQUEST])
    assert after.items == before.items
    recommender.close()


@pytest.mark.parametrize("change", ["write", "cut", "replace", "remove"])
def test_file_that_changes_while_a_bundle_is_opened_is_named(bundle: Path, change: str) -> None:
    files, path = open_bundle(bundle).files, bundle / WEIGHTS_FILE
    match change:
        case "write":
            with path.open("r+b") as file:
                file.write(b"x")
        case "cut":
            os.truncate(path, 10)
        case "replace":
            shutil.copy(path, bundle / "other")
            (bundle / "other").replace(path)
        case _:
            path.unlink()
    with pytest.raises(BundleError, match=rf"{WEIGHTS_FILE} changed while it was being read"):
        files.hold()


@pytest.mark.parametrize("name", [MANIFEST_FILE, WEIGHTS_FILE, CATALOGUE_FILE])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_before_it_is_read(bundle: Path, name: str, kind: str) -> None:
    path = bundle / name
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    with pytest.raises(BundleError, match=f"{name}: it is no regular file"):
        open_bundle(bundle)


def store_and_link(path: Path, stored: Path) -> None:
    stored.parent.mkdir(parents=True, exist_ok=True)
    path.rename(stored)
    path.symlink_to(stored)


def test_bundle_of_links_into_a_store_opens(bundle: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(bundle.iterdir())):
        store_and_link(path, tmp_path / "store" / str(number))
    opened = tmp_path / "linked"
    opened.symlink_to(bundle)
    Recommender.open(opened).close()


def test_link_that_onnxruntime_does_not_follow_says_what_to_copy(
    bundle: Path, tmp_path: Path
) -> None:
    store_and_link(bundle / WEIGHTS_FILE, tmp_path / "store" / "weights")
    with pytest.raises(BundleError, match=rf"out of the folder of {GRAPH_FILE}; .*cp -rL"):
        Recommender.open(bundle)
