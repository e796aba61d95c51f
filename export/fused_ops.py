"""Operators of opset 23 that runtimes fuse, emitted while tracing at an older opset.

The tracer knows opset 18. Each function computes its operator in PyTorch and stands for one node
in a placeholder domain, which `promote` moves to the default domain of opset 23 afterwards.
"""

import onnx
import torch
from torch import Tensor
from torch.nn import functional

TRACED_OPSET = 18
FUSED_OPSET = 23
_DOMAIN = "llmsrec.fused"
_ATTEND = functional.scaled_dot_product_attention
"""Kept from before Optimum's patcher puts a version without grouped queries in its place."""


class RMSNormalization(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, epsilon)

    @staticmethod
    def symbolic(g, x, weight, epsilon):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        node = g.op(f"{_DOMAIN}::RMSNormalization", x, weight, axis_i=-1, epsilon_f=epsilon)
        return node.setType(x.type())


class RotaryEmbedding(torch.autograd.Function):
    """Rotates the halves of each head of `x [B, T, H * D]` by its position."""

    @staticmethod
    def forward(
        _: object, x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor, num_heads: int
    ) -> Tensor:
        heads = x.unflatten(-1, (num_heads, -1))  # [B, T, H, D]
        left, right = heads.chunk(2, dim=-1)
        c, s = cos[position_ids].unsqueeze(2), sin[position_ids].unsqueeze(2)  # [B, T, 1, D/2]
        return torch.cat((left * c - right * s, right * c + left * s), dim=-1).flatten(2)

    @staticmethod
    def symbolic(g, x, cos, sin, position_ids, num_heads):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, PLR0913, PLR0917
        inputs = (x, cos, sin, position_ids)
        node = g.op(f"{_DOMAIN}::RotaryEmbedding", *inputs, num_heads_i=num_heads)
        return node.setType(x.type())


class CausalAttention(torch.autograd.Function):
    """Grouped-query attention of all positions, `[B, T, H * D]`, each seeing those before it."""

    @staticmethod
    def forward(
        _: object, query: Tensor, key: Tensor, value: Tensor, num_heads: int, num_kv_heads: int
    ) -> Tensor:
        heads = _split(query, key, value, num_heads, num_kv_heads)
        return _join(_ATTEND(*heads, is_causal=True, enable_gqa=True))

    @staticmethod
    def symbolic(g, query, key, value, num_heads, num_kv_heads):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, PLR0913, PLR0917
        node = g.op(
            f"{_DOMAIN}::Attention",
            *(query, key, value),
            is_causal_i=1,
            q_num_heads_i=num_heads,
            kv_num_heads_i=num_kv_heads,
        )
        return node.setType(query.type())


class MaskedAttention(torch.autograd.Function):
    """Grouped-query attention of single queries `[B, 1, H * D]` under `mask [B, 1, 1, T]`."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        _: object,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        num_heads: int,
        num_kv_heads: int,
    ) -> Tensor:
        heads = _split(query, key, value, num_heads, num_kv_heads)
        return _join(_ATTEND(*heads, attn_mask=mask, enable_gqa=True))

    @staticmethod
    def symbolic(g, query, key, value, mask, num_heads, num_kv_heads):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205, PLR0913, PLR0917
        node = g.op(
            f"{_DOMAIN}::Attention",
            *(query, key, value, mask),
            q_num_heads_i=num_heads,
            kv_num_heads_i=num_kv_heads,
        )
        return node.setType(query.type())


def promote(model: onnx.ModelProto) -> None:
    """Move the placeholder nodes of a traced model to opset 23, in place."""
    for node in model.graph.node:
        if node.domain == _DOMAIN:
            node.domain = ""
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", FUSED_OPSET))
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))


def _split(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, num_kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        query.unflatten(-1, (num_heads, -1)).transpose(1, 2),  # [B, H, T, D]
        key.unflatten(-1, (num_kv_heads, -1)).transpose(1, 2),  # [B, G, T, D]
        value.unflatten(-1, (num_kv_heads, -1)).transpose(1, 2),  # [B, G, T, D]
    )


def _join(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)
