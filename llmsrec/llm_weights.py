"""Whether the tensors in an LLM's files are those of its config, each once, in their shape."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from llmsrec.errors import CheckpointError
from llmsrec.llm_folder import CONFIG, LLMFolder, some
from llmsrec.served import require_served

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
UNFIT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What `transformers` raises for a file whose values do not fit."""

_PREFIX = "model."
"""Stands before the names where a model was saved together with its language-model head."""
_UNREAD = re.compile(r"lm_head\.|.*\.inv_freq$")
"""Not part of a decoder: its head, and frequencies that older releases saved."""


def require_fitting(folder: LLMFolder) -> PretrainedConfig:
    """Refuse an LLM that is not served, or that is not in its files as a whole.

    Raises:
        CheckpointError: naming the setting, or the tensors and their file.
    """
    place = folder.path / CONFIG
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder.path, trust_remote_code=False)
        require_served(config.to_dict())
        _require_num_layers(folder, config.num_hidden_layers)
        with torch.device("meta"):
            decoder: nn.Module = AutoModel.from_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from error
    except UNFIT as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{place} describes no {folder.config['model_type']} ({reason}); copy it again"
        ) from error
    _require_tensors(
        folder, {name: list(value.shape) for name, value in decoder.state_dict().items()}
    )
    return config


def tied_head(folder: LLMFolder) -> dict[str, str]:
    """Map the head to the embedding where one table is both and is saved as the head alone."""
    prefix = _prefix(folder.tensors)
    is_tied = folder.config.get("tie_word_embeddings", False)
    if not is_tied or HEAD not in folder.tensors or prefix + EMBEDDING in folder.tensors:
        return {}
    return {f"^{re.escape(HEAD)}$": prefix + EMBEDDING}


def require_loaded(place: object, info: Mapping[str, Any]) -> None:
    """Refuse what `transformers` says that it has drawn or passed over.

    Raises:
        CheckpointError: naming the tensors.
    """
    drawn = sorted([*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])])
    left = [name for name in sorted(info["unexpected_keys"]) if not _UNREAD.match(name)]
    if drawn or left:
        raise CheckpointError(
            f"{place}: {some(drawn or left)} {'lacks its values' if drawn else 'is left over'};"
            " save the LLM again"
        )


def require_finite(place: object, model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        CheckpointError: naming the tensors.
    """
    broken = [
        name
        for name, value in model.state_dict().items()
        if not all(limit.isfinite() for limit in torch.aminmax(value))
    ]
    if broken:
        raise CheckpointError(
            f"{place}: {some(broken)} {'holds' if len(broken) == 1 else 'hold'} NaN or infinity;"
            " copy or train the LLM again"
        )


def _require_num_layers(folder: LLMFolder, num_layers: int) -> None:
    """Compare the number of layers, before that many are made."""
    numbers = (re.search(r"\blayers\.(\d+)\.", name) for name in folder.tensors)
    found = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    if found != num_layers:
        raise CheckpointError(
            f"num_hidden_layers is {num_layers}, and the weights hold {found} layers; keep the"
            " files of one model"
        )


def _require_tensors(folder: LLMFolder, expected: Mapping[str, list[int]]) -> None:
    prefix = _prefix(folder.tensors)
    aliases = {HEAD: EMBEDDING} if tied_head(folder) else {}
    found = {
        aliases.get(name, name.removeprefix(prefix)): (name, tensor)
        for name, tensor in folder.tensors.items()
        if name in aliases or not _UNREAD.match(name)
    }
    missing = [prefix + name for name in expected if name not in found]
    left = [name for bare, (name, _) in found.items() if bare not in expected]
    if missing:
        raise CheckpointError(_describe_missing(folder, missing, left))
    if left:
        raise CheckpointError(
            f"{folder.tensors[left[0]].file}: {some(left)} {'has' if len(left) == 1 else 'have'} no"
            f" place in the {folder.config['model_type']} that {CONFIG} describes, whose vectors"
            " would be others; keep the files of one model"
        )
    for bare, shape in expected.items():
        name, tensor = found[bare]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: {name} is {tensor.shape}, and {CONFIG} asks for {shape}; keep the"
                " files of one model"
            )


def _describe_missing(folder: LLMFolder, missing: list[str], left: list[str]) -> str:
    files = ", ".join(file.name for file in folder.weight_files)
    lacking = f"{folder.path}: {files} lack{'' if ',' in files else 's'} {some(missing)}"
    if any("lora_" in name or ".base_layer." in name for name in left):
        remedy = "merge the adapter first (merge_and_unload of peft), then save the merged model"
    elif left:
        remedy = (
            "save the model itself, outside of its wrapper (LoRA: merge_and_unload first; DDP:"
            " .module; FSDP: the full state dict)"
        )
    else:
        remedy = "save the LLM again as a whole"
    held = f" and hold{'' if ',' in files else 's'} {some(left)}" if left else ""
    return f"{lacking}{held}; {remedy}"


def _prefix(names: Collection[str]) -> str:
    return _PREFIX if any(name.startswith(_PREFIX) for name in names) else ""
