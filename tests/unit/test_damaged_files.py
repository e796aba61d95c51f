"""Whatever happens to a file of a checkpoint or an LLM: it is read as it was, or refused."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsrec import checkpoint, llm
from llmsrec.errors import CheckpointError, LLMSRecError
from llmsrec.reference_files import read_reference

CHECKPOINT_FILES = (
    *("config.json", "heads.safetensors", "items.safetensors"),
    *("llm.json", "catalogue.jsonl", "histories.jsonl"),
)
LLM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
REFERENCE_FILES = ("Golden_llama-3b_1_CLS.pt", "text_name_dict.json.gz")
OPENING_BYTES = 2000
"""Headers and settings stand there; behind them a changed number is another number."""

CUTS = st.floats(0, 0.999).map(lambda share: ("cut", share, 0))
FLIPS = st.tuples(st.just("flip"), st.floats(0, 0.999), st.integers(1, 255))
MUTATIONS = st.lists(CUTS | FLIPS, min_size=1, max_size=3)
Mutations = Sequence[tuple[str, float, int]]

quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def mutate(content: bytes, mutations: Mutations) -> bytes:
    changed = bytearray(content)
    for kind, share, bits in mutations:
        if kind == "cut":
            del changed[int(share * len(changed)) :]
        elif changed:
            changed[int(share * min(len(changed), OPENING_BYTES))] ^= bits
    return bytes(changed)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "copy"


def copy_with(source: Path, target: Path, name: str, mutations: Mutations) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).symlink_to(file)
    (target / name).unlink()
    (target / name).write_bytes(mutate((source / name).read_bytes(), mutations))
    return target


def require_one_line(error: LLMSRecError, folder: Path) -> None:
    assert "\n" not in str(error)
    assert str(folder) in str(error) or "llm.json" in str(error) or "tokenizer" in str(error)


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
@given(mutations=MUTATIONS)
@quick
def test_a_damaged_checkpoint_is_refused_in_one_line_or_read_whole(
    reference_checkpoint_dir: Path, damaged: Path, name: str, mutations: Mutations
) -> None:
    folder = copy_with(reference_checkpoint_dir, damaged, name, mutations)
    try:
        loaded = checkpoint.load(folder)
    except LLMSRecError as error:
        require_one_line(error, folder)
    else:
        assert len(loaded.titles) == loaded.config.num_items == len(loaded.item_table)
        assert all(bool(value.isfinite().all()) for value in loaded.heads.state_dict().values())


@pytest.mark.parametrize("name", LLM_FILES)
@given(mutations=MUTATIONS)
@quick
def test_a_damaged_llm_is_refused_in_one_line_or_is_another(
    reference_dir: Path, damaged: Path, name: str, mutations: Mutations
) -> None:
    source = reference_dir / "llm"
    folder = copy_with(source, damaged, name, mutations)
    before = llm.locate(str(source))
    try:
        found = llm.locate(str(folder))
    except CheckpointError as error:
        require_one_line(error, folder)
    else:
        is_same = (folder / name).read_bytes() == (source / name).read_bytes()
        assert (found.sha256 == before.sha256) is is_same


@pytest.mark.parametrize("name", REFERENCE_FILES)
@given(mutations=MUTATIONS)
@quick
def test_damaged_files_of_the_published_code_are_refused_in_one_line_or_read(
    reference_dir: Path, damaged: Path, name: str, mutations: Mutations
) -> None:
    folder = copy_with(reference_dir / "llm_srec", damaged, name, mutations)
    try:
        files = read_reference(folder)
    except CheckpointError as error:
        require_one_line(error, folder)
    else:
        assert len(files.titles) == len(files.item_table) == 400
        assert torch.stack([value.isfinite().all() for value in files.heads.values()]).all()
