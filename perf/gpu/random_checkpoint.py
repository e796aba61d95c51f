"""Writes a checkpoint whose LLM and heads are random, with the data of a real one, to time.

How fast a forward is does not depend on what the weights are, so random ones of the right shape
serve where the real ones may not be had. What it recommends means nothing. The output holds two
folders: `llm`, bf16 as transformers saves it, and `checkpoint`, which export/build_engine.py takes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerFast

from llmsrec import checkpoint, llm
from llmsrec.checkpoint import Checkpoint, CheckpointConfig
from llmsrec.encoding import History
from llmsrec.errors import CheckpointError
from llmsrec.files import replaced_whole
from llmsrec.model import Heads
from perf.gpu.llm_shapes import SHAPES

CONFIG_FILE = "config.json"


class RandomCheckpoint(msgspec.Struct, frozen=True):
    checkpoint: str
    shape: str
    num_weights: int
    num_items: int
    num_histories: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--shape", choices=SHAPES, required=True, help="of the LLM")
    add(
        "--like",
        type=Path,
        required=True,
        metavar="CHECKPOINT",
        help="whose tokenizer, catalogue and histories to take",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="where to put the two folders")
    add("--histories", type=int, metavar="H", help="to keep; fewer are built sooner (default: all)")
    add(
        "--items",
        type=int,
        metavar="N",
        help="to keep, and at least those of the histories (default: all)",
    )


def run(arguments: argparse.Namespace) -> RandomCheckpoint:
    """Write both folders, in place of older ones.

    Raises:
        CheckpointError: the shape has no token for some of the tokenizer's ids, or the output holds
            something else.
    """
    config, output = SHAPES[arguments.shape], arguments.output
    like = checkpoint.load(arguments.like)
    tokenizer = llm.load_tokenizer(like.llm_source)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise CheckpointError(
            f"{arguments.like}: its tokenizer has {tokenizer.get_vocab_size()} tokens, the shape"
            f" {arguments.shape} {config.vocab_size}; name another --shape or --like"
        )
    checkpoint.require_replaceable(output / "checkpoint")
    torch.manual_seed(0)
    num_weights = write_llm(output / "llm", config, tokenizer)
    made = make_checkpoint(
        keep(like, arguments.histories, arguments.items), output / "llm", arguments.shape
    )
    checkpoint.save(output / "checkpoint", made)
    return RandomCheckpoint(
        checkpoint=str(output / "checkpoint"),
        shape=arguments.shape,
        num_weights=num_weights,
        num_items=len(made.catalogue),
        num_histories=len(made.histories),
    )


def write_llm(folder: Path, config: PretrainedConfig, tokenizer: Tokenizer) -> int:
    """Draw and write an LLM's weights; give their number."""
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} exists and is no LLM; name another --output")
    model = AutoModel.from_config(config, dtype=torch.bfloat16)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replaced_whole(folder) as aside:
        model.save_pretrained(aside)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(aside)
    return sum(weight.numel() for weight in model.state_dict().values())


def keep(like: Checkpoint, num_histories: int | None, num_items: int | None) -> Checkpoint:
    """Keep the first histories, their items, and of the others the first, `num_items` in all."""
    histories = like.histories[:num_histories]
    used = {row for rows, _ in histories for row in rows}
    others = [row for row in range(len(like.catalogue)) if row not in used]
    num_others = len(others) if num_items is None else max(0, num_items - len(used))
    kept = sorted([*used, *others[:num_others]])
    return replace(
        like,
        item_table=like.item_table[kept],
        catalogue=[like.catalogue[row] for row in kept],
        histories=_renumber(histories, kept),
        public_source=None,
    )


def make_checkpoint(like: Checkpoint, llm_folder: Path, shape: str) -> Checkpoint:
    """Put random heads, and the LLM in `llm_folder`, in the place of a checkpoint's own."""
    width = SHAPES[shape].hidden_size
    heads = Heads(width)
    heads.draw_readouts(torch.randn(width) * SHAPES[shape].initializer_range)
    config = CheckpointConfig(
        model_version=f"random-{shape}",
        llm_dim=width,
        num_items=len(like.catalogue),
        training={"weights": "random", "like": like.config.model_version},
    )
    return replace(like, config=config, heads=heads, llm_source=llm.locate(str(llm_folder)))


def _renumber(histories: Sequence[History], kept: Sequence[int]) -> list[History]:
    places = {row: place for place, row in enumerate(kept)}
    return [([places[row] for row in rows], times) for rows, times in histories]
