"""The encoder as it is exported: one graph that serves both towers and computes nothing in vain.

It walks the decoder's layers itself, with the fused operators, and runs the last layer's query
and MLP for the readout alone. What a runtime gets is right-padded prompts and causal attention.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from export.fused_ops import attend_causally, attend_masked, rms_norm, rotate
from llmsrec.model import LLMSRec
from llmsrec.prompt import MAX_PROMPT_TOKENS
from llmsrec.served import require_served

INPUTS = {
    "input_ids": {0: "batch", 1: "tokens"},
    "slot_ids": {0: "batch", 1: "tokens"},
    "readout_position": {0: "batch"},
    "item_table": {0: "items"},
}
OUTPUTS = {"user_vector": {0: "batch"}, "item_vector": {0: "batch"}}
Untyped = Any
"""A module of `transformers`, whose attributes are not typed."""


class EncoderGraph(nn.Module):
    """LLM-SRec with the item table as an input; weights are shared with `model`.

    The LLM of `model` is cast to `dtype`; norms, residual stream, projector and heads stay fp32.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, model: LLMSRec, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.config: Untyped = model.llm.config
        require_served(self.config.to_dict())
        self.num_heads = (self.config.num_attention_heads, self.config.num_key_value_heads)
        positions = torch.arange(MAX_PROMPT_TOKENS).unsqueeze(0)
        rotary = cast("Untyped", model.llm.rotary_emb)
        cos, sin = rotary(torch.zeros(1), positions)  # [1, T, D], both halves equal
        half = cos.shape[-1] // 2
        self.register_buffer("cos", cos[0, :, :half].to(dtype).contiguous())  # [T, D / 2]
        self.register_buffer("sin", sin[0, :, :half].to(dtype).contiguous())  # [T, D / 2]
        for weight in model.llm.parameters():
            weight.data = weight.data.to(dtype)

    def forward(
        self, input_ids: Tensor, slot_ids: Tensor, readout_position: Tensor, item_table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give user and item vectors, both `[B, 128]`, of prompts padded on the right."""
        llm = cast("Untyped", self.model.llm)
        *layers, last = llm.layers
        hidden = _cast(
            self.model.embed(input_ids, slot_ids, item_table), torch.float32
        )  # [B, T, d]
        positions = torch.arange(input_ids.shape[1]).unsqueeze(0).expand_as(input_ids)  # [B, T]
        for layer in layers:
            normed = _norm(layer.input_layernorm, hidden)
            query = self._query(layer.self_attn, normed, positions)
            key, value = self._key_value(layer.self_attn, normed, positions)
            hidden = _finish(layer, hidden, attend_causally(query, key, value, self.num_heads))
        readout = self._read(last, hidden, positions, readout_position)
        row = _norm_exactly(llm.norm, readout)[:, 0]  # [B, d]
        return self.model.heads.pred_user(row), self.model.heads.pred_item(row)

    def _read(self, layer: Untyped, hidden: Tensor, positions: Tensor, readout: Tensor) -> Tensor:
        """Run a layer for the readout's row only, `[B, 1, d]`."""
        at = readout.unsqueeze(-1)  # [B, 1]
        normed = _norm(layer.input_layernorm, hidden)
        query = self._query(layer.self_attn, _take(normed, at), at)  # [B, 1, H * D]
        key, value = self._key_value(layer.self_attn, normed, positions)
        mask = (positions <= at)[:, None, None]  # [B, 1, 1, T]
        attended = attend_masked(query, key, value, mask, self.num_heads)
        return _finish(layer, _take(hidden, at), attended)

    def _query(self, attention: Untyped, hidden: Tensor, positions: Tensor) -> Tensor:
        query = attention.q_proj(hidden)
        if self.config.model_type == "qwen3":
            query = _norm_heads(attention.q_norm, query)
        return rotate(query, self.cos, self.sin, positions, self.num_heads[0])

    def _key_value(
        self, attention: Untyped, hidden: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        key = attention.k_proj(hidden)
        if self.config.model_type == "qwen3":
            key = _norm_heads(attention.k_norm, key)
        key = rotate(key, self.cos, self.sin, positions, self.num_heads[1])
        return key, attention.v_proj(hidden)


def _norm(norm: Untyped, x: Tensor) -> Tensor:
    return _cast(_norm_exactly(norm, x), norm.weight.dtype)


def _norm_exactly(norm: Untyped, x: Tensor) -> Tensor:
    """Normalise in fp32, whatever the precision around: a variance in fp16 ruins the vectors."""
    return rms_norm(_cast(x, torch.float32), norm.weight.float(), norm.variance_epsilon)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast where it changes something: the tracer would write down a cast to the same type."""
    return x if x.dtype == dtype else x.to(dtype)


def _norm_heads(norm: Untyped, x: Tensor) -> Tensor:
    heads = x.view(*x.shape[:2], -1, norm.weight.shape[0])  # [B, T, H, D]
    return _norm(norm, heads).flatten(2)


def _finish(layer: Untyped, residual: Tensor, attended: Tensor) -> Tensor:
    hidden: Tensor = residual + layer.self_attn.o_proj(attended)
    mlp: Tensor = layer.mlp(_norm(layer.post_attention_layernorm, hidden))
    return hidden + mlp


def _take(hidden: Tensor, at: Tensor) -> Tensor:
    index = at.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    return torch.gather(hidden, 1, index)  # [B, 1, d]
