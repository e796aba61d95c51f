"""Copies of the reference's LLM folder, and ways to damage them as users do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"

Weights = dict[str, Tensor]
Damage = Callable[[Path], object]


def copy_llm(source: Path, target: Path) -> Path:
    """Copy files without their write protection."""
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def change_json(path: Path, **values: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def config(**values: Any) -> Damage:  # noqa: ANN401
    """Set keys of config.json."""
    return lambda folder: change_json(folder / "config.json", **values)


def weights(change: Callable[[Weights], Weights]) -> Damage:
    """Write other tensors in place of the LLM's."""

    def damage(folder: Path) -> None:
        file = folder / WEIGHTS
        changed = change(load_file(file))
        file.unlink()
        save_file(changed, file, {"format": "pt"})

    return damage


def without(*names: str) -> Damage:
    return weights(lambda held: {name: value for name, value in held.items() if name not in names})


def with_prefix(prefix: str) -> Damage:
    return weights(lambda held: {prefix + name: value for name, value in held.items()})


def with_tensor(name: str, value: Tensor) -> Damage:
    return weights(lambda held: held | {name: value})


def as_head_alone(held: Weights) -> Weights:
    """Keep the tied table under the head's name, as `safetensors.torch.save_model` does."""
    return {"lm_head.weight" if "embed_tokens" in name else name: held[name] for name in held}


def split(folder: Path) -> list[Path]:
    """Split the weights into two shards with an index, as large models are saved."""
    held = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(held)
    shards = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places: dict[str, str] = {}
    for shard, part in zip(shards, (names[:15], names[15:]), strict=True):
        save_file({name: held[name] for name in part}, shard, {"format": "pt"})
        places |= dict.fromkeys(part, shard.name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return shards


def grow_tokenizer(folder: Path, *, special: bool) -> None:
    """Add a token behind the last that is embedded."""
    content = json.loads((folder / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"].append({"id": 598, "content": "<think>", "special": special, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(content))


def spoil(value: float) -> Damage:
    """Put one NaN or infinity into a tensor."""

    def change(held: Weights) -> Weights:
        held[QUERY] = held[QUERY].clone()
        held[QUERY][3, 5] = torch.tensor(value)
        return held

    return weights(change)
