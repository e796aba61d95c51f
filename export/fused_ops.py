"""Operators of opset 23 that runtimes fuse, emitted while tracing at an older opset.

The tracer knows opset 18. Each function computes its operator in PyTorch and stands for one node
in a placeholder domain, which `promote` moves to the default domain of opset 23 afterwards.
Hidden states are `[B, T, H * D]`, so that no runtime has to transpose between operators.
"""

from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional

TRACED_OPSET = 18
FUSED_OPSET = 23
_DOMAIN = "llmsrec.fused"
_ATTEND = functional.scaled_dot_product_attention
"""Kept from before Optimum's patcher puts a version without grouped queries in its place."""

Graph = Any
"""The tracer's graph and values, which PyTorch does not type."""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    normed: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, num_heads: int) -> Tensor:
    """Rotate the halves of each head by its position, with `cos` and `sin [positions, D / 2]`."""
    rotated: Tensor = _Rotary.apply(x, cos, sin, positions, num_heads)  # type: ignore[no-untyped-call]
    return rotated


def attend_causally(
    query: Tensor, key: Tensor, value: Tensor, num_heads: tuple[int, int]
) -> Tensor:
    """Attend from each position to those before it; `num_heads` of queries and of keys."""
    attended: Tensor = _CausalAttention.apply(query, key, value, num_heads)  # type: ignore[no-untyped-call]
    return attended


def attend_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: tuple[int, int]
) -> Tensor:
    """Attend from single queries `[B, 1, H * D]` where `mask [B, 1, 1, T]` allows it."""
    attended: Tensor = _MaskedAttention.apply(query, key, value, mask, num_heads)  # type: ignore[no-untyped-call]
    return attended


def promote(model: onnx.ModelProto) -> None:
    """Move the placeholder nodes of a traced model to opset 23, in place."""
    for node in model.graph.node:
        if node.domain == _DOMAIN:
            node.domain = ""
    opsets = [onnx.helper.make_opsetid("", FUSED_OPSET)]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.ir_version = onnx.helper.find_min_ir_version_for(opsets)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, epsilon)

    @staticmethod
    def symbolic(graph: Graph, x: Graph, weight: Graph, epsilon: float) -> Graph:
        name = f"{_DOMAIN}::RMSNormalization"
        return graph.op(name, x, weight, axis_i=-1, epsilon_f=epsilon).setType(x.type())


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(
        _: object, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, num_heads: int
    ) -> Tensor:
        left, right = _split(x, num_heads).chunk(2, dim=-1)  # [B, H, T, D / 2] each
        c, s = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # [B, 1, T, D / 2]
        return _join(torch.cat((left * c - right * s, right * c + left * s), dim=-1))

    @staticmethod
    def symbolic(
        graph: Graph, x: Graph, cos: Graph, sin: Graph, positions: Graph, num_heads: int
    ) -> Graph:
        name = f"{_DOMAIN}::RotaryEmbedding"
        return graph.op(name, x, cos, sin, positions, num_heads_i=num_heads).setType(x.type())


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        _: object, query: Tensor, key: Tensor, value: Tensor, num_heads: tuple[int, int]
    ) -> Tensor:
        heads = _split_all(query, key, value, num_heads)
        return _join(_ATTEND(*heads, is_causal=True, enable_gqa=True))

    @staticmethod
    def symbolic(
        graph: Graph, query: Graph, key: Graph, value: Graph, num_heads: tuple[int, int]
    ) -> Graph:
        return _attention(graph, (query, key, value), num_heads, is_causal_i=1)


class _MaskedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        _: object,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        num_heads: tuple[int, int],
    ) -> Tensor:
        heads = _split_all(query, key, value, num_heads)
        return _join(_ATTEND(*heads, attn_mask=mask, enable_gqa=True))

    @staticmethod
    def symbolic(
        graph: Graph,
        query: Graph,
        key: Graph,
        value: Graph,
        mask: Graph,
        num_heads: tuple[int, int],
    ) -> Graph:
        return _attention(graph, (query, key, value, mask), num_heads)


def _attention(
    graph: Graph, inputs: tuple[Graph, ...], num_heads: tuple[int, int], **attributes: int
) -> Graph:
    counts = {"q_num_heads_i": num_heads[0], "kv_num_heads_i": num_heads[1]}
    node = graph.op(f"{_DOMAIN}::Attention", *inputs, **counts, **attributes)
    return node.setType(inputs[0].type())


def _split_all(
    query: Tensor, key: Tensor, value: Tensor, num_heads: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    num_queries, num_keys = num_heads
    return _split(query, num_queries), _split(key, num_keys), _split(value, num_keys)


def _split(x: Tensor, num_heads: int) -> Tensor:
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)  # [B, H, T, D]


def _join(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # [B, T, H * D]
