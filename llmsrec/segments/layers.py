"""The first layers of a frozen decoder, run over new positions beside what others left behind.

Keys are kept as they are before rotary embedding, and rotated for the place at which they are used.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from llmsrec.errors import CheckpointError

Untyped = Any
"""A module of `transformers`, whose attributes are not typed."""


class Kept(NamedTuple):
    """What positions leave behind in each layer, for others to attend to."""

    keys: Tensor  # [B, T, L, kv width], before rotary embedding
    values: Tensor  # [B, T, L, kv width]


class Beside(NamedTuple):
    """Kept positions that new ones may attend to, and the places at which they stand."""

    kept: Kept  # of [B, C]
    places: Tensor  # [B, C] int64


class FirstLayers(nn.Module):
    """Holds the decoder's first layers and its last norm."""

    def __init__(self, llm: PreTrainedModel, num_layers: int) -> None:
        super().__init__()
        decoder: Untyped = llm
        if num_layers > len(decoder.layers):
            has = len(decoder.layers)
            raise CheckpointError(
                f"the LLM has {has} layers, and its first {num_layers} are asked for"
            )
        self.layers = decoder.layers[:num_layers]
        self.norm = decoder.norm
        self.rotary = decoder.rotary_emb
        self.head_dim: int = decoder.layers[0].self_attn.head_dim

    def forward(
        self, hidden: Tensor, places: Tensor, visible: Tensor, beside: Beside | None = None
    ) -> tuple[Tensor, Kept]:
        """Run new positions `[B, R, d]` at `places [B, R]`; give their last states and keys.

        `visible [B, R, C + R] bool` says what each attends to: kept positions, then the new ones.
        The states `[B, R, d]` are float32.
        """
        rotation = self.rotary(hidden, places)  # twice [B, R, head width]
        kept_rotation = None if beside is None else self.rotary(hidden, beside.places)
        keys, values = [], []
        for number, layer in enumerate(self.layers):
            normed = layer.input_layernorm(hidden)
            query, key, value = self._project(layer.self_attn, normed)
            keys.append(key.flatten(2))
            values.append(value.flatten(2))
            key = _rotate(key, rotation)
            if beside is not None and kept_rotation is not None:
                kept_key, kept_value = (part[:, :, number] for part in beside.kept)  # [B, C, kv]
                key = torch.cat([_rotate(self._split(kept_key), kept_rotation), key], 1)
                value = torch.cat([self._split(kept_value), value], 1)
            attended = functional.scaled_dot_product_attention(
                _rotate(query, rotation).transpose(1, 2),  # [B, H, R, head width]
                key.transpose(1, 2),
                value.transpose(1, 2),
                attn_mask=visible[:, None],
                scale=layer.self_attn.scaling,
                enable_gqa=True,
            )
            hidden = hidden + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.norm(hidden).float(), Kept(torch.stack(keys, 2), torch.stack(values, 2))

    def _project(self, attention: Untyped, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give query, key and value, each `[B, R, heads, head width]`."""
        query, key, value = (
            self._split(project(normed))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):  # Qwen3
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query, key, value

    def _split(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:-1], -1, self.head_dim)


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each half-pair of `[B, T, heads, head width]` by the angle of its place."""
    cos, sin = (part.unsqueeze(2) for part in rotation)
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin
