"""The LLMs that are served: what an exported graph computes as PyTorch does."""

from collections.abc import Mapping
from typing import Any

from llmsrec.errors import CheckpointError
from llmsrec.prompt import MAX_PROMPT_TOKENS

DECODER_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ROTARY_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that do not depend on a prompt's length."""

_FULL, _SLIDING = "full_attention", "sliding_attention"
_WINDOW_BY_LAYER = ("qwen2", "qwen3")

Settings = Mapping[str, Any]
"""What a config of `transformers` holds, its defaults filled in."""


def require_decoder(place: str, model_type: object) -> None:
    """Refuse another kind of model, whose config may mean anything.

    Raises:
        CheckpointError: naming those that are served.
    """
    if model_type not in DECODER_TYPES:
        raise CheckpointError(
            f"{place}: a {model_type!r} model; served are {', '.join(DECODER_TYPES)}"
        )


def require_served(settings: Settings) -> None:
    """Refuse an LLM that the exported graph does not compute.

    Raises:
        CheckpointError: naming what is not served.
    """
    require_decoder("this LLM", settings.get("model_type"))
    _require_rotary(settings)
    _require_window(settings)
    _require_heads(settings)


def _require_rotary(settings: Settings) -> None:
    scaling = settings.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROTARY_TYPES:
        raise CheckpointError(
            f"this LLM's rotary embedding {kind!r} changes with the length of the prompt; served"
            f" are {', '.join(ROTARY_TYPES)}"
        )
    if settings.get("partial_rotary_factor") not in {None, 1.0}:
        raise CheckpointError(
            "this LLM rotates a part of each head (partial_rotary_factor), which is not served;"
            " train on another"
        )


def _require_window(settings: Settings) -> None:
    kinds = set(settings.get("layer_types") or [])
    if unknown := kinds - {_FULL, _SLIDING}:
        raise CheckpointError(
            f"this LLM has layers of {', '.join(sorted(map(str, unknown)))} (layer_types); served"
            f" are {_FULL} and {_SLIDING} over {MAX_PROMPT_TOKENS} tokens and more"
        )
    window = settings.get("sliding_window")
    if _SLIDING not in kinds and (window is None or settings["model_type"] in _WINDOW_BY_LAYER):
        return
    if not isinstance(window, int):
        raise CheckpointError(
            f"this LLM has layers of {_SLIDING}, and sliding_window is {window!r}; mend its config"
        )
    if window < MAX_PROMPT_TOKENS:
        raise CheckpointError(
            f"this LLM attends to {window} tokens only; a prompt may have {MAX_PROMPT_TOKENS}"
        )


def _require_heads(settings: Settings) -> None:
    num_heads, num_kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"this LLM has {num_heads} heads of attention (num_attention_heads) for {num_kv_heads}"
            " of keys and values (num_key_value_heads), which does not divide; mend its config"
        )
    head_dim = settings.get("head_dim") or settings["hidden_size"] // num_heads
    if head_dim % 2:
        raise CheckpointError(
            f"this LLM's heads are {head_dim} wide, which a rotary embedding cannot halve; mend"
            " head_dim in its config"
        )
