"""Counts the arithmetic of an encoder graph, or of the model: matrix products, and attention."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, helper
from transformers import PretrainedConfig

from export.int16 import DOMAIN
from llmsrec.model import COLLABORATIVE_DIM, HEAD_WIDTH, VECTOR_DIM

Shapes = dict[str, list[int]]


def count_flop(model: onnx.ModelProto, num_users: int, num_tokens: int) -> int:
    """Count a forward's multiplications and additions; the inputs' sizes are set in `model`."""
    sizes: Shapes = {
        "input_ids": [num_users, num_tokens],
        "slot_ids": [num_users, num_tokens],
        "readout_position": [num_users],
        "item_table": [1, 64],
    }
    for entry in model.graph.input:
        for dim, size in zip(entry.type.tensor_type.shape.dim, sizes[entry.name], strict=True):
            dim.dim_value = size
    _use_standard_operators(model.graph)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    # What inference leaves open is the one row of each prompt that the last layer runs for.
    shapes = {
        value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    } | {weights.name: list(weights.dims) for weights in inferred.initializer}
    return sum(_flop_of_nodes(inferred, shapes))


def count_model_flop(llm: PretrainedConfig, num_users: int, num_tokens: int) -> int:
    """Count a forward of the model as PyTorch does it: every layer for every token."""
    width: int = llm.hidden_size
    head_dim = getattr(llm, "head_dim", None) or width // llm.num_attention_heads
    queries, keys = llm.num_attention_heads * head_dim, llm.num_key_value_heads * head_dim
    layer = width * (2 * queries + 2 * keys + 3 * llm.intermediate_size)
    projector = COLLABORATIVE_DIM * width + width * width
    head = width * HEAD_WIDTH + HEAD_WIDTH * VECTOR_DIM
    num_pairs = num_tokens * (num_tokens + 1) // 2
    matrices = num_tokens * (llm.num_hidden_layers * layer + projector) + head
    num_flop: int = num_users * (2 * matrices + 4 * llm.num_hidden_layers * num_pairs * queries)
    return num_flop


def _use_standard_operators(graph: onnx.GraphProto) -> None:
    """Put operators of the same shapes in the place of int16 ones, which ONNX does not know."""
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = [
        _standard(node, weights) if node.domain == DOMAIN else node for node in list(graph.node)
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def _standard(node: NodeProto, weights: dict[str, onnx.TensorProto]) -> NodeProto:
    match node.op_type:
        case "MatMulBlocks":
            weight = weights[node.input[2]]
            num_panels, num_pairs, panel, pair = weight.dims
            weight.dims[:] = [num_pairs * pair, num_panels * panel]
            return helper.make_node("MatMul", [node.input[0], weight.name], node.output)
        case "CausalAttention":
            standard = helper.make_node("Attention", node.input, node.output, is_causal=1)
            standard.attribute.extend(node.attribute)
            return standard
        case "QuantizeBlocks" | "NormalizeBlocks" | "GateBlocks":
            return helper.make_node("Identity", node.input[:1], node.output[:1])
    raise AssertionError(node.op_type)


def _flop_of_nodes(graph: onnx.GraphProto, shapes: Shapes) -> Iterator[int]:
    for node in graph.node:
        if node.op_type == "MatMul":
            yield 2 * int(np.prod(shapes[node.output[0]])) * shapes[node.input[1]][0]
        elif node.op_type == "Gemm":
            yield 2 * int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][1]
        elif node.op_type == "Attention":
            batch, queries, width = shapes[node.input[0]]
            keys = shapes[node.input[1]][1]
            is_causal = any(each.name == "is_causal" and each.i for each in node.attribute)
            seen = (queries * (queries + 1)) // 2 if is_causal else queries * keys
            yield 4 * batch * seen * width
