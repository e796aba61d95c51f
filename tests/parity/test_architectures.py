"""Every served architecture gives the same vectors in PyTorch, as exported and in ONNX Runtime."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from support.running import encode_all
from torch import Tensor, nn
from transformers import (
    AutoModel,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from engine.bundle.manifest import GRAPH_FILE
from engine.config import EncoderConfig
from engine.encoders.cpu import CpuEncoder
from engine.query import Prompt
from export.encoder_graph import EncoderGraph
from export.onnx_export import export_onnx
from llmsrec import llm, prompt
from llmsrec.errors import CheckpointError
from llmsrec.model import COLLABORATIVE_DIM, Heads, LLMSRec
from llmsrec.tokens import PromptArrays

NUM_ITEMS = 12
NUM_LAYERS = 3
VOCAB_SIZE = 50
LENGTHS = (3, 41, 17, 120)

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama3": lambda: LlamaConfig(**SHAPE, head_dim=16, rope_scaling=LLAMA3_ROPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=12),
    "mistral": lambda: MistralConfig(**SHAPE, head_dim=16, sliding_window=None),
}


class Exported(NamedTuple):
    name: str
    model: LLMSRec
    folder: Path


def random_llm(config: PretrainedConfig) -> PreTrainedModel:
    """Draw every weight, norms and biases too, so that none could be left out unseen."""
    torch.manual_seed(0)
    decoder: PreTrainedModel = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return decoder


def random_model(config: PretrainedConfig) -> LLMSRec:
    decoder = random_llm(config)
    heads = Heads(config.hidden_size)
    heads.draw_readouts(decoder.get_input_embeddings().get_parameter("weight"))
    return LLMSRec(decoder, heads, torch.randn(NUM_ITEMS, COLLABORATIVE_DIM)).eval()


def random_prompts(readout: int) -> list[PromptArrays]:
    rng = np.random.default_rng(1)
    prompts = []
    for length in LENGTHS:
        token_ids = rng.integers(0, VOCAB_SIZE, length, np.int32)
        is_item = rng.random(length) < 0.2
        slot_ids = is_item * rng.integers(1, NUM_ITEMS + 1, length, np.int32)
        slot_ids[-1] = readout
        prompts.append((token_ids, slot_ids.astype(np.int32)))
    return prompts


USERS, ITEMS = random_prompts(prompt.USER_READOUT_SLOT), random_prompts(prompt.ITEM_READOUT_SLOT)


@pytest.fixture(scope="module", params=list(CONFIGS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = random_model(CONFIGS[request.param]())
    folder = tmp_path_factory.mktemp(request.param)
    export_onnx(EncoderGraph(model), folder)
    return Exported(request.param, model, folder)


def expected_vectors(model: LLMSRec) -> tuple[Tensor, Tensor]:
    """Encode one prompt at a time, so that there is no padding."""
    with torch.inference_mode():
        users = [model.user_vectors([written]) for written in USERS]
        items = [model.item_vectors([written]) for written in ITEMS]
    return torch.cat(users), torch.cat(items)


def assert_close(found: Tensor | NDArray[np.float32], expected: Tensor, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_all_weights_matter_to_the_vectors(exported: Exported) -> None:
    users, items = expected_vectors(exported.model)
    distances = torch.cdist(torch.cat([users, items]), torch.cat([users, items]))
    assert (distances + torch.eye(len(distances)) * 9 > 1).all()


def test_exported_graph_computes_the_models_vectors(exported: Exported) -> None:
    model = exported.model
    graph = EncoderGraph(model)
    users, items = expected_vectors(model)
    with torch.inference_mode():
        user_vectors, _ = graph(*model.collate(USERS), model.item_table)
        _, item_vectors = graph(*model.collate(ITEMS), model.item_table)
        assert_close(model.user_vectors(USERS), users, 1e-5)
    assert_close(user_vectors, users, 1e-5)
    assert_close(item_vectors, items, 1e-5)


def test_onnx_runtime_computes_the_models_vectors(exported: Exported) -> None:
    table = exported.model.item_table.numpy()
    encoder = CpuEncoder(exported.folder, table, EncoderConfig(num_threads=1))
    users, items = expected_vectors(exported.model)
    assert_close(encode_all(encoder, [Prompt(*user) for user in USERS], "user_vector"), users, 1e-4)
    assert_close(encode_all(encoder, [Prompt(*item) for item in ITEMS], "item_vector"), items, 1e-4)


def test_item_table_is_an_input_of_any_size(exported: Exported) -> None:
    table = torch.randn(3 * NUM_ITEMS, COLLABORATIVE_DIM)
    model = LLMSRec(exported.model.llm, exported.model.heads, table).eval()
    encoder = CpuEncoder(exported.folder, table.numpy(), EncoderConfig(num_threads=1))
    users, _ = expected_vectors(model)
    assert_close(encode_all(encoder, [Prompt(*user) for user in USERS], "user_vector"), users, 1e-4)
    assert (users - expected_vectors(exported.model)[0]).abs().amax(1).min() > 1e-2


def test_graph_holds_the_fused_operators(exported: Exported) -> None:
    graph = onnx.load(exported.folder / GRAPH_FILE, load_external_data=False)
    operators = [node.op_type for node in graph.graph.node]
    num_head_norms = 2 * NUM_LAYERS if exported.name == "qwen3" else 0
    assert operators.count("Attention") == NUM_LAYERS
    assert operators.count("RotaryEmbedding") == 2 * NUM_LAYERS
    assert operators.count("RMSNormalization") == 2 * NUM_LAYERS + 1 + num_head_norms
    assert not {"Softmax", "Sqrt", "Sin", "Cos"} & set(operators)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 23)]
    assert {node.domain for node in graph.graph.node} == {""}


def intermediate_shapes(folder: Path, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Run the graph on the prompts and give the shape of each named value."""
    graph = onnx.load(folder / GRAPH_FILE)
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    lengths = np.array(LENGTHS)
    input_ids = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)
    feed = {
        "input_ids": input_ids,
        "slot_ids": input_ids,
        "readout_position": lengths - 1,
        "item_table": np.zeros((NUM_ITEMS, COLLABORATIVE_DIM), np.float32),
    }
    return [value.shape for value in session.run(list(names), feed)]


@pytest.mark.parametrize("part", ["q_proj", "mlp/gate_proj", "mlp/down_proj"])
def test_last_layer_runs_for_the_readout_alone(exported: Exported, part: str) -> None:
    graph = onnx.load(exported.folder / GRAPH_FILE, load_external_data=False)
    names = [
        node.output[0]
        for node in graph.graph.node
        if node.op_type == "MatMul" and f"/{part}" in node.name
    ]
    shapes = intermediate_shapes(exported.folder, names)
    num_rows = [shape[:-1] for shape in shapes]
    whole = (len(LENGTHS), max(LENGTHS))
    assert num_rows == [*[whole] * (NUM_LAYERS - 1), (len(LENGTHS), 1)]


@pytest.mark.parametrize("config", [GPT2Config, GemmaConfig])
def test_other_architecture_is_refused(
    config: type[PretrainedConfig], tmp_path: Path, reference_dir: Path
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = AutoModel.from_config(config(**sizes, vocab_size=VOCAB_SIZE, head_dim=16))
    decoder.save_pretrained(tmp_path)
    shutil.copy(reference_dir / "llm" / "tokenizer.json", tmp_path)
    with pytest.raises(CheckpointError, match="served are llama, mistral, qwen2, qwen3"):
        llm.load(llm.locate(str(tmp_path)), torch.float32)


@pytest.mark.parametrize(
    "rope_scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
        },
    ],
    ids=["dynamic", "dynamic, old spelling", "longrope"],
)
def test_rotary_embedding_that_depends_on_the_length_is_refused(
    rope_scaling: dict[str, str | float | list[float]],
) -> None:
    model = random_model(LlamaConfig(**SHAPE, rope_scaling=rope_scaling))
    with pytest.raises(CheckpointError, match=r"changes with the length.*default, linear, llama3"):
        EncoderGraph(model)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, sliding_window=prompt.MAX_PROMPT_TOKENS - 1),
        Qwen2Config(
            **SHAPE,
            use_sliding_window=True,
            sliding_window=prompt.MAX_PROMPT_TOKENS - 1,
            max_window_layers=1,
        ),
    ],
    ids=["mistral", "qwen2"],
)
def test_window_shorter_than_a_prompt_is_refused(config: PretrainedConfig) -> None:
    with pytest.raises(CheckpointError, match="attends to 1023 tokens only"):
        EncoderGraph(random_model(config))


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, sliding_window=prompt.MAX_PROMPT_TOKENS),
        Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=16),
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=16, max_window_layers=3),
    ],
    ids=["as long as a prompt", "not in use", "in use by no layer"],
)
def test_window_that_cuts_no_prompt_is_served(config: PretrainedConfig) -> None:
    model = random_model(config)
    with torch.inference_mode():
        user_vectors, _ = EncoderGraph(model)(*model.collate(USERS), model.item_table)
    assert_close(user_vectors, expected_vectors(model)[0], 1e-5)
