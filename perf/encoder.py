"""Times one forward of a bundle's encoder beside the arithmetic that it must do.

The arithmetic is counted in the graph: its matrix products, and attention over the tokens before
each one. The roof is PyTorch's matrix product in the bundle's precision, on the GPU for TensorRT,
measured in the same run.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import onnx

from engine.backends.choice import open_encoder
from engine.bundle import open_bundle
from engine.config import EncoderConfig
from engine.manifest import GRAPH_FILE
from engine.request import Prompt
from export.build import DTYPES
from llmsrec.prompt import MAX_PROMPT_TOKENS, USER_READOUT_SLOT
from perf.peaks import matrix_peak_gflops

Shapes = dict[str, list[int]]


class Result(msgspec.Struct, frozen=True):
    num_users: int
    num_tokens: int
    median_ms: float
    gflop: float
    gflop_per_s: float
    peak_gflop_per_s: float
    share_of_peak: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--users", type=int, default=1, help="prompts of one forward")
    parser.add_argument(
        "--tokens", type=int, default=350, help=f"of each prompt, 2 to {MAX_PROMPT_TOKENS}"
    )
    parser.add_argument("--rounds", type=int, default=20, help="timings, besides 3 to warm up")


def run(arguments: argparse.Namespace) -> Result:
    bundle = open_bundle(arguments.bundle)
    slot_ids = np.zeros(arguments.tokens, np.int32)
    slot_ids[0], slot_ids[-1] = 1, USER_READOUT_SLOT
    prompts = [Prompt(np.zeros_like(slot_ids), slot_ids)] * arguments.users
    times = []
    with closing(open_encoder(bundle, EncoderConfig())) as encoder:
        for _ in range(arguments.rounds + 3):
            started = time.perf_counter()
            encoder.encode(prompts, "user_vector")
            times.append(time.perf_counter() - started)
    seconds = statistics.median(times[3:])
    graph = onnx.load(bundle.path / GRAPH_FILE, load_external_data=False)
    gflop = count_flop(graph, arguments.users, arguments.tokens) / 1e9
    manifest = bundle.manifest
    device = "cuda" if manifest.backend == "tensorrt" else "cpu"
    peak = matrix_peak_gflops(device, DTYPES[manifest.precision])
    return Result(
        num_users=arguments.users,
        num_tokens=arguments.tokens,
        median_ms=seconds * 1e3,
        gflop=gflop,
        gflop_per_s=gflop / seconds,
        peak_gflop_per_s=peak,
        share_of_peak=gflop / seconds / peak,
    )


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
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    # What inference leaves open is the one row of each prompt that the last layer runs for.
    shapes = {
        value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        for value in [*inferred.value_info, *inferred.input, *inferred.output]
    } | {weights.name: list(weights.dims) for weights in inferred.initializer}
    return sum(_flop_of_nodes(inferred, shapes))


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
