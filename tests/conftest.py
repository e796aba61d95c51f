"""What many tests share: the published code's reference set, imported and built once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from engine import Interaction, Recommender
from engine.bundle.opened import Bundle, open_bundle
from engine.config import Config
from engine.live import Generation, open_generation
from export.build import BuildOptions, build
from llmsrec import checkpoint, llm
from llmsrec.checkpoint import Checkpoint
from llmsrec.import_reference import to_checkpoint
from llmsrec.reference_files import read_reference


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--num-messages", type=int, default=5_000, help="mutated messages to send to a real server"
    )


class Reference(NamedTuple):
    """Histories of the published code's users, its prompts and the vectors it gave."""

    histories: list[list[Interaction]]
    prompts: list[str]
    user_vectors: NDArray[np.float32]  # [24, 128]
    item_vectors: NDArray[np.float32]  # [400, 128]


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    return Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference(reference_dir: Path) -> Reference:
    cases = json.loads((reference_dir / "cases.json").read_text())
    expected = np.load(reference_dir / "expected.npz")
    histories = [
        [Interaction(str(item_id), time_ms) for item_id, time_ms in history]
        for history in cases["histories"].values()
    ]
    vectors = expected["user_vectors"], expected["item_vectors"]
    return Reference(histories, cases["prompts"], *vectors)


@pytest.fixture(scope="session")
def reference_checkpoint_dir(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "checkpoint"
    source = llm.locate(str(reference_dir / "llm"))
    checkpoint.save(folder, to_checkpoint(read_reference(reference_dir / "llm_srec"), source))
    return folder


@pytest.fixture(scope="session")
def reference_checkpoint(reference_checkpoint_dir: Path) -> Checkpoint:
    return checkpoint.load(reference_checkpoint_dir)


@pytest.fixture(scope="session")
def reference_bundle(
    reference_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A real bundle over 400 items; tests that change it copy it first."""
    bundle = tmp_path_factory.mktemp("built") / "bundle"
    build(reference_checkpoint, bundle, BuildOptions(), Progress(disable=True))
    return bundle


@pytest.fixture(scope="session")
def opened_bundle(reference_bundle: Path) -> Bundle:
    return open_bundle(reference_bundle)


@pytest.fixture(scope="session")
def generation(reference_bundle: Path) -> Iterator[Generation]:
    """The reference bundle, ready to answer on the CPU."""
    opened = open_generation(reference_bundle, Config())
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def recommender(generation: Generation) -> Recommender:
    return Recommender(generation)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Make sums come out the same in every process."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
