"""The encoder as it is exported: one graph that serves both towers and computes nothing in vain.

It walks the decoder's layers itself, with the fused operators, and runs the last layer's query
and MLP for the readout alone. What a runtime gets is right-padded prompts and causal attention.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from export.fused_ops import CausalAttention, MaskedAttention, RMSNormalization, RotaryEmbedding
from llmsrec.errors import CheckpointError
from llmsrec.model import LLMSRec
from llmsrec.prompt import MAX_PROMPT_TOKENS

INPUTS = {
    "input_ids": {0: "batch", 1: "tokens"},
    "slot_ids": {0: "batch", 1: "tokens"},
    "readout_position": {0: "batch"},
    "item_table": {0: "items"},
}
OUTPUTS = {"user_vector": {0: "batch"}, "item_vector": {0: "batch"}}


class EncoderGraph(nn.Module):
    """LLM-SRec with the item table as an input; weights are shared with `model`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, model: LLMSRec) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.llm.config
        _check_positions(self.config)
        self.num_heads = self.config.num_attention_heads
        self.num_kv_heads = self.config.num_key_value_heads
        positions = torch.arange(MAX_PROMPT_TOKENS).unsqueeze(0)
        cos, sin = model.llm.rotary_emb(torch.zeros(1), positions)  # [1, T, head dim], halves equal
        half = cos.shape[-1] // 2
        self.register_buffer("cos", cos[0, :, :half].contiguous())  # [T, D/2]
        self.register_buffer("sin", sin[0, :, :half].contiguous())  # [T, D/2]

    def forward(
        self, input_ids: Tensor, slot_ids: Tensor, readout_position: Tensor, item_table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give user and item vectors, both `[B, 128]`, of prompts padded on the right."""
        *layers, last = self.model.llm.layers
        hidden = self.model.embed(input_ids, slot_ids, item_table)  # [B, T, d]
        positions = torch.arange(input_ids.shape[1]).unsqueeze(0).expand_as(input_ids)
        for layer in layers:
            normed = _norm(layer.input_layernorm, hidden)
            attended = CausalAttention.apply(
                self._query(layer.self_attn, normed, positions),
                *self._key_value(layer.self_attn, normed, positions),
                self.num_heads,
                self.num_kv_heads,
            )
            hidden = _finish(layer, hidden, attended)
        readout = _norm(self.model.llm.norm, self._read(last, hidden, positions, readout_position))
        row = readout[:, 0]  # [B, d]
        return self.model.heads.pred_user(row), self.model.heads.pred_item(row)

    def _read(self, layer: nn.Module, hidden: Tensor, positions: Tensor, readout: Tensor) -> Tensor:
        """Run the last layer for the readout's row only, `[B, 1, d]`."""
        at = readout.unsqueeze(-1)  # [B, 1]
        normed = _norm(layer.input_layernorm, hidden)
        attended = MaskedAttention.apply(
            self._query(layer.self_attn, _take(normed, at), at),
            *self._key_value(layer.self_attn, normed, positions),
            (positions <= at)[:, None, None],  # [B, 1, 1, T]
            self.num_heads,
            self.num_kv_heads,
        )
        return _finish(layer, _take(hidden, at), attended)

    def _query(self, attention: nn.Module, hidden: Tensor, positions: Tensor) -> Tensor:
        query = attention.q_proj(hidden)
        if "q_norm" in dict(attention.named_children()):
            query = _norm_heads(attention.q_norm, query, self.num_heads)
        return RotaryEmbedding.apply(query, self.cos, self.sin, positions, self.num_heads)

    def _key_value(
        self, attention: nn.Module, hidden: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        key = attention.k_proj(hidden)
        if "k_norm" in dict(attention.named_children()):
            key = _norm_heads(attention.k_norm, key, self.num_kv_heads)
        key = RotaryEmbedding.apply(key, self.cos, self.sin, positions, self.num_kv_heads)
        return key, attention.v_proj(hidden)


def _check_positions(config: PretrainedConfig) -> None:
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in {"default", "linear", "llama3", "yarn"}:
        raise CheckpointError(f"rotary embeddings of type {kind!r} change with the prompt's length")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < MAX_PROMPT_TOKENS:
        raise CheckpointError(
            f"a sliding window of {window} tokens is shorter than a prompt ({MAX_PROMPT_TOKENS})"
        )


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    return RMSNormalization.apply(x, norm.weight, norm.variance_epsilon)


def _norm_heads(norm: nn.Module, x: Tensor, num_heads: int) -> Tensor:
    return _norm(norm, x.unflatten(-1, (num_heads, -1))).flatten(2)


def _finish(layer: nn.Module, residual: Tensor, attended: Tensor) -> Tensor:
    hidden = residual + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))


def _take(hidden: Tensor, at: Tensor) -> Tensor:
    index = at.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    return torch.gather(hidden, 1, index)  # [B, 1, d]
