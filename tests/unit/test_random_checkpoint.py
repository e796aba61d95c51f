"""Random weights of a shape make a checkpoint that is built and served like any other."""

import argparse
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from safetensors import safe_open
from transformers import LlamaConfig

from engine import Recommender
from export.build import BuildOptions, build
from llmsrec import checkpoint
from llmsrec.errors import CheckpointError
from perf.gpu import random_checkpoint
from perf.gpu.llm_shapes import SHAPES


def parse(like: Path, output: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    random_checkpoint.add_arguments(parser)
    options = ["--shape=tiny", f"--like={like}", f"--output={output}", *more]
    return parser.parse_args(options)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            weights |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    return weights


def test_bundle_is_built_and_answers(reference_checkpoint_dir: Path, tmp_path: Path) -> None:
    options = parse(reference_checkpoint_dir, tmp_path, "--items=60", "--histories=3")
    result = random_checkpoint.run(options)
    assert (result.num_items, result.num_histories) == (60, 3)
    made = checkpoint.load(tmp_path / "checkpoint")
    assert made.config.model_version == "random-tiny"
    build(made, tmp_path / "bundle", BuildOptions(), Progress(disable=True))
    recommender = Recommender.open(tmp_path / "bundle")
    assert len(recommender.item_ids) == 60
    recommender.close()


def test_histories_keep_their_items(reference_checkpoint_dir: Path, tmp_path: Path) -> None:
    random_checkpoint.run(parse(reference_checkpoint_dir, tmp_path, "--items=1", "--histories=3"))
    like, made = checkpoint.load(reference_checkpoint_dir), checkpoint.load(tmp_path / "checkpoint")
    used = {row for rows, _ in like.histories[:3] for row in rows}
    assert len(made.catalogue) == len(used)
    for (rows, times), (like_rows, like_times) in zip(
        made.histories, like.histories[:3], strict=True
    ):
        assert list(times) == list(like_times)
        assert [made.catalogue[row] for row in rows] == [like.catalogue[row] for row in like_rows]
        assert torch.equal(made.item_table[list(rows)], like.item_table[list(like_rows)])


def test_all_weights_are_drawn(reference_checkpoint_dir: Path, tmp_path: Path) -> None:
    result = random_checkpoint.run(parse(reference_checkpoint_dir, tmp_path))
    weights = weights_of(tmp_path / "llm")
    assert sum(weight.numel() for weight in weights.values()) == result.num_weights
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    model, tokenizer = checkpoint.load(tmp_path / "checkpoint").load_model()
    loaded = model.llm.state_dict()
    assert loaded.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(loaded[name], weight.float())
        expected = 0 if weight.ndim == 1 else SHAPES["tiny"].initializer_range
        assert weight.float().std().item() == pytest.approx(expected, rel=0.1)
    _, like_tokenizer = checkpoint.load(reference_checkpoint_dir).load_model()
    text = 'Item No.1, Time: 2018-05-01, "A Title"'
    assert tokenizer.encode(text).ids == like_tokenizer.encode(text).ids


def test_shape_without_the_tokenizers_last_tokens_is_refused(
    reference_checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, "tiny", LlamaConfig(vocab_size=500))
    with pytest.raises(CheckpointError, match=r"its tokenizer has \d+ tokens, the shape tiny 500"):
        random_checkpoint.run(parse(reference_checkpoint_dir, tmp_path))


@pytest.mark.parametrize("folder", ["llm", "checkpoint"])
def test_what_is_something_else_is_not_overwritten(
    reference_checkpoint_dir: Path, tmp_path: Path, folder: str
) -> None:
    kept = tmp_path / folder / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is no"):
        random_checkpoint.run(parse(reference_checkpoint_dir, tmp_path))
    assert kept.read_text() == "mine"
    assert not list(tmp_path.rglob("*.safetensors"))


def test_llama_3b_has_the_weights_that_its_cost_is_reckoned_with() -> None:
    shape = SHAPES["llama-3.2-3b"]
    head_dim = shape.head_dim
    attention = 2 * (shape.num_attention_heads + shape.num_key_value_heads) * head_dim
    layer = shape.hidden_size * (attention + 3 * shape.intermediate_size)
    assert shape.num_hidden_layers * layer == pytest.approx(2.82e9, rel=0.002)
