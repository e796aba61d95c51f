"""The micro-benchmarks count what must be done and compare results before they time anything."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from engine.manifest import GRAPH_FILE
from engine.retrieval import Ranking
from perf import encoder, peaks, prompt, topk

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
    assert encoder.count_flop(graph, NUM_USERS, NUM_TOKENS) == expected_flop(config)


def test_forward_is_timed_beside_the_peak(reference_bundle: Path) -> None:
    options = parse(encoder.add_arguments, str(reference_bundle), "--rounds=2", "--tokens=30")
    figures = encoder.run(options)
    assert figures.gflop_per_s == pytest.approx(figures.gflop / figures.median_ms * 1e3)
    assert figures.share_of_peak == pytest.approx(figures.gflop_per_s / figures.peak_gflop_per_s)


def test_topk_is_timed_for_each_number_of_queries() -> None:
    options = parse(topk.add_arguments, "--items=500", "--queries", "1", "3", "-k=7")
    result = topk.run(options)
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
