"""The micro-benchmarks count what must be done and compare results before they time anything."""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from support.ring import ring_dataset
from torch import nn
from torch.nn import functional

from engine.bundle.manifest import GRAPH_FILE, Backend, Bucket, Precision, read_manifest
from engine.ranking.cpu import Ranking
from engine.request import Prompt
from engine.sizes import fill
from export.build import DTYPES
from llmsrec.checkpoint import Checkpoint
from perf import encoder, flops, peaks, prompt, pytorch, topk, train

NUM_USERS, NUM_TOKENS = 3, 40


@pytest.fixture(autouse=True)
def _low_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the machine's peaks on little."""
    monkeypatch.setitem(peaks.MATRIX_SIZES, "cpu", 64)
    monkeypatch.setattr(peaks, "READ_BYTES", 1 << 20)


def parse(
    add_arguments: Callable[[argparse.ArgumentParser], None], *arguments: str
) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def expected_flop(config: dict[str, int]) -> int:
    """Count by the shape of a Llama, its last layer's query and MLP being for one token only."""
    width, num_layers = config["hidden_size"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or width // config["num_attention_heads"]
    queries = config["num_attention_heads"] * head_dim
    keys_and_values = 2 * config["num_key_value_heads"] * head_dim
    rest = 2 * queries * width + 3 * width * config["intermediate_size"]
    tokens = NUM_USERS * NUM_TOKENS
    layers = num_layers * tokens * width * keys_and_values
    layers += ((num_layers - 1) * tokens + NUM_USERS) * rest
    pairs = (num_layers - 1) * NUM_TOKENS * (NUM_TOKENS + 1) // 2 + NUM_TOKENS
    projector = tokens * (64 * width + width * width)
    heads = 2 * NUM_USERS * (width * 2048 + 2048 * 128)
    return 2 * (layers + projector + heads) + 4 * NUM_USERS * pairs * queries


def test_forward_counts_matrix_products_and_causal_attention(
    reference_bundle: Path, reference_dir: Path
) -> None:
    graph = onnx.load(reference_bundle / GRAPH_FILE, load_external_data=False)
    config = json.loads((reference_dir / "llm" / "config.json").read_text())
    assert flops.count_flop(graph, NUM_USERS, NUM_TOKENS) == expected_flop(config)


def assert_consistent(figures: encoder.Figures, peak_gflop_per_s: float) -> None:
    seconds = figures.median_ms / 1e3
    assert figures.users_per_s == pytest.approx(figures.num_users / seconds)
    assert figures.tokens_per_s == pytest.approx(figures.users_per_s * figures.num_tokens)
    assert figures.gflop_per_s == pytest.approx(figures.gflop / seconds)
    assert figures.share_of_peak == pytest.approx(figures.gflop_per_s / peak_gflop_per_s)
    at_peak = figures.users_per_s / figures.share_of_peak
    assert figures.roof_users_per_s == pytest.approx(at_peak)


def test_forwards_of_each_size_are_timed_beside_the_peak(reference_bundle: Path) -> None:
    sizes = ["--users", "1", "3", "--tokens", "30", "40", "--rounds=2", "--warm-up=1"]
    result = encoder.run(parse(encoder.add_arguments, str(reference_bundle), *sizes))
    assert result.precision == "fp32"
    found = [(figures.num_users, figures.num_tokens) for figures in result.figures]
    assert found == [(1, 30), (3, 30), (1, 40), (3, 40)]
    graph = onnx.load(reference_bundle / GRAPH_FILE, load_external_data=False)
    for figures in result.figures:
        assert_consistent(figures, result.peak_gflop_per_s)
        expected = flops.count_flop(graph, figures.num_users, figures.num_tokens)
        assert figures.gflop == pytest.approx(expected / 1e9)


def test_forwards_that_warm_up_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 100, 100, 101, 101, 103, 103, 112])
    monkeypatch.setattr("perf.encoder.time.perf_counter", lambda: next(clock))
    seen: list[int] = []
    options = argparse.Namespace(users=[2], tokens=[30], rounds=3, warm_up=1)
    times = encoder.time_sizes(lambda prompts: seen.append(len(prompts)), options)
    assert times == {(2, 30): 2}
    assert seen == [2] * 4


def test_pytorchs_forward_counts_what_pytorch_counts(reference_checkpoint: Checkpoint) -> None:
    model, _ = reference_checkpoint.load_model()
    model.llm.set_attn_implementation(pytorch.ATTENTIONS["sdpa"])
    prompts = fill(Bucket(NUM_USERS, NUM_TOKENS))
    counted = train.count_flop(lambda: pytorch.encode(model, prompts))
    rotary = NUM_TOKENS * model.llm.config.head_dim  # angles, a product of vectors
    expected = flops.count_model_flop(model.llm.config, NUM_USERS, NUM_TOKENS)
    assert counted == expected + rotary


def test_pytorchs_attentions_give_the_same_vectors(reference_checkpoint: Checkpoint) -> None:
    model, _ = reference_checkpoint.load_model()
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(rng.integers(0, 500, length, np.int32), fill(Bucket(1, length))[0].slot_ids)
        for length in (NUM_TOKENS, NUM_TOKENS - 7)
    ]
    expected = pytorch.encode(model, prompts)
    for attention in pytorch.ATTENTIONS.values():
        model.llm.set_attn_implementation(attention)
        torch.testing.assert_close(pytorch.encode(model, prompts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", pytorch.ATTENTIONS)
@pytest.mark.parametrize("precision", pytorch.DTYPES)
def test_pytorchs_forward_is_timed_beside_the_peak(
    reference_checkpoint_dir: Path, precision: str, attention: str
) -> None:
    options = ["--device=cpu", f"--precision={precision}", f"--attention={attention}"]
    sizes = ["--users", "1", "2", "--tokens=30", "--rounds=1", "--warm-up=1"]
    arguments = [str(reference_checkpoint_dir), *options, *sizes]
    result = pytorch.run(parse(pytorch.add_arguments, *arguments))
    assert (result.device, result.precision, result.attention) == ("cpu", precision, attention)
    assert msgspec.json.decode(msgspec.json.encode(result), type=pytorch.Result) == result
    assert [figures.num_users for figures in result.figures] == [1, 2]
    for figures in result.figures:
        assert_consistent(figures, result.peak_gflop_per_s)


def test_pytorch_without_a_gpu_says_so(
    reference_checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"finds no CUDA device.*--device cpu"):
        pytorch.run(parse(pytorch.add_arguments, str(reference_checkpoint_dir)))


def test_forward_that_is_not_finite_is_not_timed(reference_checkpoint: Checkpoint) -> None:
    model, _ = reference_checkpoint.load_model()
    model = copy.deepcopy(model)
    nn.init.constant_(model.heads.CLS, torch.nan)
    with pytest.raises(SystemExit, match="not finite; take another --precision"):
        pytorch.encode(model, fill(Bucket(1, 30)))


@pytest.mark.parametrize(
    ("backend", "precision", "device", "roof"),
    [
        ("onnxruntime", "fp32", "cpu", 100),
        ("onnxruntime", "int16", "cpu", 200),
        ("tensorrt", "fp16", "cuda", 100),
        ("onnxruntime-cuda", "fp32", "cuda", 100),
    ],
)
def test_roof_is_that_of_the_device_and_precision(
    reference_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: Backend,
    precision: Precision,
    device: str,
    roof: float,
) -> None:
    asked = []

    def measure(device: str, dtype: torch.dtype) -> float:
        asked.append((device, dtype))
        return 100.0

    monkeypatch.setattr(encoder, "matrix_peak_gflops", measure)
    manifest = read_manifest(reference_bundle)
    manifest = msgspec.structs.replace(manifest, backend=backend, precision=precision)
    assert encoder.roof_gflops(manifest) == roof
    assert asked == [(device, DTYPES[precision])]


def test_topk_is_timed_for_each_number_of_queries() -> None:
    options = parse(topk.add_arguments, "--items=500", "--queries", "1", "3", "-k=7")
    result = topk.run(options)
    assert isinstance(result, topk.Result)
    assert [figures.num_queries for figures in result.figures] == [1, 3]
    for figures in result.figures:
        assert figures.ours_over_numpy == pytest.approx(figures.ours_ms / figures.numpy_ms)
        assert figures.gb_per_s == pytest.approx(500 * 128 * 4 / figures.ours_ms / 1e6)
        assert figures.share_of_peak == pytest.approx(figures.gb_per_s / result.peak_gb_per_s)


def test_topk_that_finds_other_items_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(
        items: NDArray[np.float32], queries: NDArray[np.float32], k: int, num_threads: int
    ) -> list[Ranking]:
        assert num_threads
        return [(np.arange(k, dtype=np.int32), items[:k] @ query) for query in queries]

    monkeypatch.setattr(topk, "_ours", worse)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        topk.run(parse(topk.add_arguments, "--items=500", "--queries=2", "-k=7"))


def test_prompts_are_compared_and_timed(reference_bundle: Path) -> None:
    figures = prompt.run(parse(prompt.add_arguments, str(reference_bundle), "--prompts=5"))
    assert figures.num_prompts == 5
    assert 100 < figures.mean_tokens < 1024
    ratio = figures.fragments_us / figures.tokenizing_us
    assert figures.fragments_over_tokenizing == pytest.approx(ratio)
    assert msgspec.json.encode(figures)


@pytest.mark.parametrize(("is_causal", "num_pairs"), [(True, 5 * 6 // 2), (False, 5 * 5)])
def test_attention_is_counted_over_the_tokens_that_it_sees(is_causal: bool, num_pairs: int) -> None:
    query, key, value = torch.rand(3, 2, 4, 5, 8, requires_grad=True)  # [B, H, T, D] each

    def forward() -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)

    product = 2 * 2 * 4 * num_pairs * 8
    assert train.count_flop(forward) == 2 * product
    backward = train.count_flop(lambda: forward().sum().backward())  # type: ignore[no-untyped-call]
    assert backward == (2 + 5) * product


def test_training_step_and_readout_are_timed_beside_the_peak(
    reference_dir: Path, tmp_path: Path
) -> None:
    ring_dataset(num_users=8).save(tmp_path / "ring")
    options = [f"--dataset={tmp_path / 'ring'}", f"--llm={reference_dir / 'llm'}", "--rounds=2"]
    result = train.run(parse(train.add_arguments, *options, "--batch-size=4"))
    assert (result.num_users, result.precision) == (4, "bf16")
    for figures in (result.step, result.readout):
        assert figures.gflop_per_s == pytest.approx(figures.gflop / figures.median_ms * 1e3)
        assert figures.share_of_peak == pytest.approx(figures.gflop_per_s / result.peak_gflop_per_s)
    # A step reads five prompts a user, four of them short ones of items, and goes back as well.
    assert 4 * 2 < result.step.gflop / result.readout.gflop < 4 * 5 * 3
