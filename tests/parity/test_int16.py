"""The int16 graph gives the vectors of the model, whatever shares a batch."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Reference
from numpy.typing import NDArray
from rich.progress import Progress
from support.running import encode_all
from test_architectures import (
    ITEMS,
    LENGTHS,
    NUM_LAYERS,
    USERS,
    VOCAB_SIZE,
    Exported,
    expected_vectors,
    random_model,
)
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from engine import Recommender, RecommendRequest
from engine.bundle.manifest import GRAPH_FILE, read_manifest
from engine.config import EncoderConfig
from engine.encoders.cpu import CpuEncoder
from engine.query import Prompt
from engine.upkeep.check import check_bundle
from export.build import BuildOptions, build
from export.calibration import Calibration
from export.encoder_graph import EncoderGraph
from export.int16 import DOMAIN, use_int16
from export.onnx_export import export_onnx
from llmsrec.checkpoint import Checkpoint
from perf.flops import count_flop

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=48),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = random_model(CONFIGS[request.param]())
    folder = tmp_path_factory.mktemp(request.param)
    export_onnx(EncoderGraph(model), folder)
    use_int16(folder, Calibration([], model.item_table.numpy()))
    return Exported(request.param, model, folder)


@pytest.fixture(scope="module")
def encoder(exported: Exported) -> CpuEncoder:
    table = exported.model.item_table.numpy()
    return CpuEncoder(exported.folder, table, EncoderConfig(num_threads=2))


def distances(found: NDArray[np.float32], expected: torch.Tensor) -> NDArray[np.float64]:
    """Give the length of each difference, as a share of the vector's."""
    wide = expected.double().numpy()
    shares: NDArray[np.float64] = np.linalg.norm(found - wide, axis=1)
    shares /= np.linalg.norm(wide, axis=1)
    return shares


def test_vectors_are_the_models_to_half_a_percent(exported: Exported, encoder: CpuEncoder) -> None:
    users, items = expected_vectors(exported.model)
    found = encode_all(encoder, [Prompt(*user) for user in USERS], "user_vector")
    assert distances(found, users).max() < 5e-3
    found = encode_all(encoder, [Prompt(*item) for item in ITEMS], "item_vector")
    assert distances(found, items).max() < 5e-3


def test_a_prompt_is_encoded_alike_alone_and_in_a_batch(encoder: CpuEncoder) -> None:
    prompts = [Prompt(*user) for user in USERS]
    together = encode_all(encoder, prompts, "user_vector")
    alone = np.concatenate([encode_all(encoder, [prompt], "user_vector") for prompt in prompts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_every_product_and_all_around_it_is_replaced(exported: Exported) -> None:
    graph = onnx.load(exported.folder / GRAPH_FILE, load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["MatMulBlocks"] == 7 * NUM_LAYERS + 2  # of the projector
    assert operators["MatMul"] == 0
    assert operators["GateBlocks"] == NUM_LAYERS
    assert operators["CausalAttention"] == NUM_LAYERS - 1
    # The last layer takes the readout's row of what its first norm gives.
    assert operators["NormalizeBlocks"] == 2 * NUM_LAYERS - 1
    sums = [node for node in graph.node if node.op_type == "MatMulBlocks" and len(node.input) == 5]
    assert len(sums) == 2 * NUM_LAYERS


def test_arithmetic_is_counted_as_that_of_the_fp32_graph(
    exported: Exported, tmp_path: Path
) -> None:
    export_onnx(EncoderGraph(exported.model), tmp_path)
    counts = [
        count_flop(onnx.load(folder / GRAPH_FILE, load_external_data=False), 3, max(LENGTHS))
        for folder in (exported.folder, tmp_path)
    ]
    assert counts[0] == counts[1] > 0


def test_bundle_in_int16_is_built_checked_and_served(
    reference_checkpoint: Checkpoint, reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    build(reference_checkpoint, path, BuildOptions(precision="int16"), Progress(disable=True))
    manifest = read_manifest(path)
    assert (manifest.encoder.backend, manifest.encoder.precision) == ("onnxruntime", "int16")
    assert any("int16 on onnxruntime" in line for line in check_bundle(path))
    graph = onnx.load(path / GRAPH_FILE, load_external_data=False)
    assert DOMAIN in {opset.domain for opset in graph.opset_import}
    recommender = Recommender.open(path)
    (answer,) = recommender.recommend([RecommendRequest(reference.histories[0], k=5)])
    assert len(answer.items) == 5
    recommender.close()
