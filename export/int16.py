"""Rewrites the fp32 encoder graph with the engine's int16 operators (engine/native/operators).

A product with constant weights becomes one of integers: neighbours along the inner dimension share
a scale, in blocks of 64. What stands before it (a norm, the MLP's gate) or after it (the residual)
goes into the same operator, and causal attention becomes the engine's own.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from engine.bundle.manifest import GRAPH_FILE
from export.calibration import Calibration
from export.onnx_export import save_graph

DOMAIN = "llmsrec"
BLOCK = 64
"""Rows of a weight that share a scale in each column."""
PANEL = 32
"""Columns of a weight that are stored together."""
MAX_WEIGHT = 4095


def use_int16(folder: Path, _: Calibration) -> None:
    """Rewrite the fp32 graph in `folder`; its scales are those of its weights."""
    model = onnx.load(folder / GRAPH_FILE)
    use_int16_operators(model)
    save_graph(model, folder)


def use_int16_operators(model: onnx.ModelProto) -> None:
    """Replace operators of `model`, in place; a product that does not fit the blocks stays."""
    graph = model.graph
    rewriter = _Rewriter(graph)
    rewritten = [new for node in graph.node for new in rewriter.rewrite(node)]
    nodes = _without_unused(rewritten, [output.name for output in graph.output])
    used = {name for node in nodes for name in node.input}
    weights = [
        each for each in [*graph.initializer, *rewriter.weights.values()] if each.name in used
    ]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def pack(weight: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Quantize `weight [K, N]` as MatMulBlocks reads it.

    Gives values `[N / PANEL, K / 2, PANEL, 2]` and scales `[N / PANEL, K / BLOCK, PANEL]`.
    """
    depth, width = weight.shape
    blocks = weight.reshape(depth // BLOCK, BLOCK, width)
    scales = np.abs(blocks).max(axis=1) / np.float32(MAX_WEIGHT)  # [K / BLOCK, N]
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    values = np.rint(blocks / divisors).astype(np.int16)
    panels = values.reshape(depth // 2, 2, width // PANEL, PANEL).transpose(2, 0, 3, 1)
    panel_scales = scales.reshape(-1, width // PANEL, PANEL).transpose(1, 0, 2)
    return np.ascontiguousarray(panels), np.ascontiguousarray(panel_scales)


class _Rewriter:
    """Gives what to put in the place of each node, in the order of the graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights: dict[str, onnx.TensorProto] = {}
        self._constants = {weight.name: weight for weight in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        computed = [node for node in graph.node if node.op_type != "Constant"]
        self._computed = {name for node in computed for name in node.output}
        self._num_uses = Counter(name for node in graph.node for name in node.input)
        self._num_uses.update(output.name for output in graph.output)
        self._products = {node.output[0]: node for node in graph.node if self._fits(node)}
        self._num_quantized_uses = Counter(node.input[0] for node in self._products.values())
        self._sums = dict(self._find_sums(graph))
        self._quantized: set[str] = set()

    def rewrite(self, node: NodeProto) -> Iterator[NodeProto]:
        output = node.output[0]
        if output in self._products:
            if output not in self._sums.values():
                yield from self._multiply(node, output)
        elif output in self._sums:
            product = self._products[self._sums[output]]
            addend = next(name for name in node.input if name != product.output[0])
            yield from self._multiply(product, output, addend)
        elif _is_causal_attention(node):
            counts = {name: _attributes(node)[name] for name in ("q_num_heads", "kv_num_heads")}
            yield _make("CausalAttention", node.input, node.output, node.name, **counts)
        else:
            yield node

    def _fits(self, node: NodeProto) -> bool:
        if node.op_type != "MatMul" or node.input[1] not in self._constants:
            return False
        shape = self._constants[node.input[1]].dims
        return len(shape) == 2 and shape[0] % BLOCK == 0 and shape[1] % PANEL == 0

    def _find_sums(self, graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
        """Give each sum of a product and something computed, with the product's name."""
        for node in graph.node:
            if node.op_type == "Add" and self._computed.issuperset(node.input):
                for name in node.input:
                    if name in self._products and self._num_uses[name] == 1:
                        yield node.output[0], name
                        break

    def _multiply(self, node: NodeProto, output: str, *addend: str) -> Iterator[NodeProto]:
        source, weight = node.input
        quantized = [f"{source}.values", f"{source}.scales"]
        if source not in self._quantized:
            self._quantized.add(source)
            yield self._quantize(source, quantized)
        packed = [f"{weight}.values", f"{weight}.scales"]
        if packed[0] not in self.weights:
            values, scales = pack(numpy_helper.to_array(self._constants[weight]))
            self.weights[packed[0]] = numpy_helper.from_array(values, packed[0])
            self.weights[packed[1]] = numpy_helper.from_array(scales, packed[1])
        yield _make("MatMulBlocks", [*quantized, *packed, *addend], [output], node.name)

    def _quantize(self, source: str, outputs: Sequence[str]) -> NodeProto:
        """Quantize in the operator that computes `source`, where nothing else reads it."""
        producer = self._producers.get(source)
        if producer is not None and self._num_uses[source] == self._num_quantized_uses[source]:
            if _is_norm_of_rows(producer):
                epsilon = _attributes(producer).get("epsilon", 1e-5)
                name = producer.name
                return _make("NormalizeBlocks", producer.input, outputs, name, epsilon=epsilon)
            gate_and_up = self._match_gate(producer)
            if gate_and_up is not None:
                return _make("GateBlocks", gate_and_up, outputs, producer.name)
        return _make("QuantizeBlocks", [source], outputs, f"{source}.quantize")

    def _match_gate(self, node: NodeProto) -> tuple[str, str] | None:
        """Find `gate` and `up` where `node` computes `gate * sigmoid(gate) * up`."""
        if node.op_type != "Mul":
            return None
        for silu, up in (node.input, reversed(node.input)):
            inner = self._producers.get(silu)
            if inner is None or inner.op_type != "Mul":
                continue
            for gate, sigmoid in (inner.input, reversed(inner.input)):
                outer = self._producers.get(sigmoid)
                if outer is not None and outer.op_type == "Sigmoid" and outer.input[0] == gate:
                    return gate, up
        return None


def _make(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: object
) -> NodeProto:
    node = helper.make_node(operator, inputs, outputs, name, domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(*each) for each in attributes.items())
    return node


def _attributes(node: NodeProto) -> dict[str, object]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _is_norm_of_rows(node: NodeProto) -> bool:
    return node.op_type == "RMSNormalization" and _attributes(node).get("axis", -1) == -1


def _is_causal_attention(node: NodeProto) -> bool:
    """Tell whether nothing but the order of the tokens decides which of them are seen."""
    attributes = _attributes(node)
    return (
        node.op_type == "Attention"
        and len(node.input) == 3
        and attributes.keys() == {"is_causal", "q_num_heads", "kv_num_heads"}
        and attributes["is_causal"] == 1
    )


def _without_unused(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    used = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not used.isdisjoint(node.output):
            used.update(node.input)
            kept.append(node)
    return kept[::-1]
