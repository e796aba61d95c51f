"""A checkpoint is read whole or refused by file name, and no save ever loses the old one."""

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from llmsrec import checkpoint, llm
from llmsrec.checkpoint import Checkpoint, CheckpointConfig, PublicSource
from llmsrec.errors import CheckpointError, DataError, LLMSRecError
from llmsrec.model import Heads
from llmsrec.movielens import load_movielens

ROOT = Path(__file__).parents[2]
HEADS, ITEMS = "heads.safetensors", "items.safetensors"
CATALOGUE, HISTORIES = "catalogue.jsonl", "histories.jsonl"
FILES = ["config.json", HEADS, ITEMS, "llm.json", CATALOGUE, HISTORIES]

KILLED_SAVES = """
import os, signal, sys
from pathlib import Path
import torch
from llmsrec import checkpoint

torch.set_num_threads(1)
folder = Path(sys.argv[1])
asides = [folder.with_name(f".{folder.name}.{end}") for end in ("replaced", "partial")]
saved = checkpoint.load(folder)
changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
kill_at = 0

def kill(event, arguments):
    global kill_at
    kill_at -= event in changes
    if event in changes and kill_at < 0:
        os.kill(os.getpid(), signal.SIGKILL)

for num_kills in range(1000):
    kill_at = num_kills
    child = os.fork()
    if not child:
        sys.addaudithook(kill)
        checkpoint.save(folder, saved)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    for whole in [folder] if folder.exists() else asides:
        checkpoint.load(whole)
    if ended == 0:
        break
    assert ended == signal.SIGKILL
print(num_kills, any(aside.exists() for aside in asides))
"""
"""Saves over and over, killed before its first, second, … change to the file system."""


@pytest.fixture
def folder(reference_checkpoint_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a checkpoint to damage."""
    copied = shutil.copytree(reference_checkpoint_dir, tmp_path / "checkpoint")
    yield copied
    shutil.rmtree(copied, ignore_errors=True)


@pytest.fixture
def llm_folder(reference_dir: Path, tmp_path: Path) -> Path:
    """A copy of an LLM to damage."""
    copied = tmp_path / "llm"
    copied.mkdir()
    for file in (reference_dir / "llm").iterdir():
        shutil.copyfile(file, copied / file.name)
    return copied


@contextmanager
def full_disk(max_file_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: writes then fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    return str(caught.value)


def test_what_was_saved_is_loaded_bit_for_bit(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    heads = Heads(64)
    torch.nn.init.normal_(heads.CLS)
    config = CheckpointConfig(
        model_version="m",
        llm_dim=64,
        num_items=400,
        training={"dataset": "d", "seed": 1, "learning_rate": 0.1},
        metrics={"test": {"hr@10": 0.3}},
    )
    saved = replace(reference_checkpoint, config=config, heads=heads)

    checkpoint.save(tmp_path / "new" / "checkpoint", saved)
    loaded = checkpoint.load(tmp_path / "new" / "checkpoint")

    torch.testing.assert_close(loaded.heads.state_dict(), heads.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(loaded.item_table, saved.item_table, rtol=0, atol=0)
    assert replace(loaded, heads=heads, item_table=saved.item_table) == saved
    assert loaded.digest() == saved.digest()
    assert sorted(contents(tmp_path / "new" / "checkpoint")) == sorted(FILES)


def test_half_precision_heads_are_loaded_as_their_rounded_values(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "checkpoint", reference_checkpoint, torch.float16)
    loaded = checkpoint.load(tmp_path / "checkpoint").heads.state_dict()
    for name, value in reference_checkpoint.heads.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float())
    stored = load_file(tmp_path / "checkpoint" / HEADS)
    assert {value.dtype for value in stored.values()} == {torch.float16}


def test_files_can_be_read_by_others(reference_checkpoint_dir: Path) -> None:
    modes = {file.stat().st_mode & 0o777 for file in reference_checkpoint_dir.iterdir()}
    assert modes == {0o644}


def test_digest_follows_heads_and_llm(reference_checkpoint: Checkpoint) -> None:
    source = msgspec.structs.replace(reference_checkpoint.llm_source, sha256="0" * 64)
    other_llm = replace(reference_checkpoint, llm_source=source)
    other_heads = replace(reference_checkpoint, heads=Heads(64))
    digests = {each.digest() for each in (reference_checkpoint, other_llm, other_heads)}
    assert len(digests) == 3


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder} lacks {name}; copy the whole checkpoint"


@pytest.mark.parametrize("num_bytes", [0, 7, 5000, -1])
@pytest.mark.parametrize("name", [HEADS, ITEMS])
def test_a_truncated_file_is_named(folder: Path, name: str, num_bytes: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:num_bytes])
    assert re.match(rf"{folder / name} is damaged .*; copy it again$", refusal(folder))


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        (HEADS, "CLS", [63]),
        (HEADS, "pred_user.3.weight", [2048, 128]),
        (HEADS, "pred_item.0.weight", [2048, 96]),
        (ITEMS, "item_table", [400, 50]),
        (ITEMS, "item_table", [401, 64]),
    ],
)
def test_a_wrong_shape_is_named_with_its_file(
    folder: Path, name: str, key: str, shape: list[int]
) -> None:
    save_file(load_file(folder / name) | {key: torch.zeros(shape)}, folder / name)
    expected = re.escape(f"{folder / name}: {key} is {shape}, expected [")
    assert re.match(rf"{expected}[\d, ]+\]; copy ", refusal(folder))


@pytest.mark.parametrize(
    "value",
    [torch.full([64], torch.nan), torch.full([64], torch.inf), torch.ones(64, dtype=torch.int)],
)
def test_numbers_that_are_none_are_named_with_their_file(folder: Path, value: Tensor) -> None:
    save_file(load_file(folder / HEADS) | {"CLS": value}, folder / HEADS)
    expected = f"{folder / HEADS}: CLS holds NaN, infinity or no real numbers; copy or train it"
    assert refusal(folder).startswith(expected)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    heads = load_file(folder / HEADS)
    del heads["CLS_item"]
    save_file(heads, folder / HEADS)
    assert f"{HEADS}: CLS_item is missing, expected [64]" in refusal(folder)


def test_a_newer_schema_asks_for_its_release(folder: Path) -> None:
    change_config(folder, schema_version=2)
    expected = f"{folder}/config.json: schema version 2, this release reads 1; use the release"
    assert refusal(folder).startswith(expected)


def test_another_prompt_template_is_refused(folder: Path) -> None:
    change_config(folder, template_version=2)
    expected = f"{folder}/config.json: trained with prompt template 2, this release writes 1; train"
    assert refusal(folder).startswith(expected)


def test_catalogue_shorter_than_the_item_table_is_refused(folder: Path) -> None:
    lines = (folder / CATALOGUE).read_bytes().splitlines(keepends=True)
    (folder / CATALOGUE).write_bytes(b"".join(lines[:-1]))
    assert f"{folder}: 399 catalogue items for 400 rows" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"\xff": "\xff"}'])
@pytest.mark.parametrize("name", ["config.json", "llm.json", "public.json"])
def test_bad_json_is_named_with_its_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert re.match(rf"{folder / name}: .*; copy the checkpoint again$", refusal(folder))


@pytest.mark.parametrize(
    "line", [b"{", b"[[1]]", b"[[1], [null, 3]]", b"[[400], [1]]", b"[[-1], [1]]", b'["\xff"]']
)
def test_a_bad_history_is_named_with_its_line(folder: Path, line: bytes) -> None:
    (folder / HISTORIES).write_bytes(b"[[0, 399], [null, 5]]\n" + line + b"\n")
    assert re.match(rf"{folder / HISTORIES}, line 2: .*; c", refusal(folder))


def test_a_bad_catalogue_line_is_named(folder: Path) -> None:
    with (folder / CATALOGUE).open("ab") as file:
        file.write(b'{"id": 5}\n')
    with pytest.raises(DataError, match=rf"{CATALOGUE}, line 401: .*expected"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("hidden_dim", 64, "unknown field `hidden_dim`"),
        ("llm_dim", 0, r"`\$.llm_dim`"),
        ("num_items", "400", r"`\$.num_items`"),
    ],
)
def test_a_bad_config_key_is_named(folder: Path, key: str, value: object, problem: str) -> None:
    change_config(folder, **{key: value})
    assert re.search(rf"config\.json: .*{problem}", refusal(folder))


def test_llm_of_another_width_is_refused(
    reference_checkpoint: Checkpoint, llm_folder: Path
) -> None:
    config = AutoConfig.from_pretrained(llm_folder, hidden_size=32)
    AutoModel.from_config(config).save_pretrained(llm_folder)
    other = replace(reference_checkpoint, llm_source=llm.locate(str(llm_folder)))
    with pytest.raises(CheckpointError, match=r"llm\.json: .* 32 wide, .* for 64; name the LLM"):
        other.load_model()


def test_llm_that_moved_is_named(reference_checkpoint: Checkpoint, llm_folder: Path) -> None:
    moved = replace(reference_checkpoint, llm_source=llm.locate(str(llm_folder)))
    llm_folder.rename(llm_folder.with_name("elsewhere"))
    with pytest.raises(
        CheckpointError, match=rf"{llm_folder} is not there; .*mend 'path' in llm\.json"
    ):
        moved.load_model()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model.safetensors", b"\x00\x3f", b"\x00\x40"),
        ("config.json", b'"rms_norm_eps": 1e-05', b'"rms_norm_eps": 1e-06'),
        ("tokenizer.json", b'"individual_digits": true', b'"individual_digits": false'),
        ("tokenizer_config.json", b'"bos_token": "<s>"', b'"bos_token": "</s>"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_llm_that_changed_is_refused(
    reference_checkpoint: Checkpoint, llm_folder: Path, name: str, old: bytes, new: bytes
) -> None:
    source = llm.locate(str(llm_folder))
    content = (llm_folder / name).read_bytes()
    place = content.rindex(old)
    (llm_folder / name).write_bytes(content[:place] + new + content[place + len(old) :])
    with pytest.raises(CheckpointError, match=rf"{source.sha256}; point llm\.json at that LLM"):
        replace(reference_checkpoint, llm_source=source).load_model()


def test_public_data_set_is_named_not_copied_and_must_be_read_the_same(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    dataset = load_movielens("ml-100k")
    saved = Checkpoint(
        config=CheckpointConfig(model_version="m", llm_dim=64, num_items=dataset.num_items),
        heads=reference_checkpoint.heads,
        item_table=torch.zeros(dataset.num_items, 64),
        catalogue=dataset.catalogue,
        histories=checkpoint.sample_histories(dataset),
        llm_source=reference_checkpoint.llm_source,
        public_source=checkpoint.public_source(dataset),
    )
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, saved)
    assert not {CATALOGUE, HISTORIES} & contents(folder).keys()
    loaded = checkpoint.load(folder)
    assert (loaded.catalogue, loaded.histories) == (saved.catalogue, saved.histories)

    changed = PublicSource(dataset="ml-100k", sha256="0" * 64)
    checkpoint.save(folder, replace(saved, public_source=changed))
    assert f"{folder}/public.json: ml-100k is read differently than" in refusal(folder)


@pytest.mark.parametrize("max_file_bytes", [0, 10_000, 2_000_000])
def test_a_save_on_a_full_disk_leaves_the_old_checkpoint_alone(
    folder: Path, reference_checkpoint: Checkpoint, max_file_bytes: int
) -> None:
    before = contents(folder)
    with full_disk(max_file_bytes), pytest.raises(OSError, match="File too large"):
        checkpoint.save(folder, reference_checkpoint)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_save_killed_at_any_change_loses_neither_and_the_next_cleans_up(folder: Path) -> None:
    command = [sys.executable, "-c", KILLED_SAVES, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    num_kills, left = done.stdout.split()
    assert int(num_kills) > 10
    assert left == "False"


@pytest.mark.parametrize("name", ["config.json", "notes.txt"])
def test_a_folder_of_something_else_is_never_replaced(
    tmp_path: Path, reference_checkpoint: Checkpoint, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(LLMSRecError, match=f"{tmp_path} exists and is no checkpoint; remove it"):
        checkpoint.save(tmp_path, reference_checkpoint)
    assert contents(tmp_path) == {name: b"mine"}


def test_an_empty_folder_is_replaced(tmp_path: Path, reference_checkpoint: Checkpoint) -> None:
    (tmp_path / "empty").mkdir()
    checkpoint.save(tmp_path / "empty", reference_checkpoint)
    assert checkpoint.load(tmp_path / "empty").digest() == reference_checkpoint.digest()
