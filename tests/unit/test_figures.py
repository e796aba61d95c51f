"""The micro-benchmarks count what must be done, and give no time of an answer that is wrong."""

import argparse
import copy
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.bundle.manifest import (
    ENCODER_KINDS,
    GRAPH_FILE,
    Backend,
    Plan,
    Precision,
    read_manifest,
)
from engine.bundle.opened import Bundle
from engine.query import Prompt, Ranking
from engine.sizes import Size
from export.recipes import RECIPES
from llmsrec.checkpoint import Checkpoint
from llmsrec.encoding import History
from perf import encoder, flops, peaks, prompt, timing, topk
from perf.engine_access import make_prompts, render_history
from perf.errors import MeasureError, WrongAnswer
from perf.gpu import pytorch
from perf.gpu.topk import DTYPES as LLM_DTYPES
from perf.gpu.topk import TopKCase

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


def assert_consistent(figures: encoder.Forward, peak_gflop_per_s: float) -> None:
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
    found = [(figures.num_users, figures.num_tokens) for figures in result.sizes]
    assert found == [(1, 30), (3, 30), (1, 40), (3, 40)]
    graph = onnx.load(reference_bundle / GRAPH_FILE, load_external_data=False)
    for figures in result.sizes:
        assert_consistent(figures, result.peak_gflop_per_s)
        expected = flops.count_flop(graph, figures.num_users, figures.num_tokens)
        assert figures.gflop == pytest.approx(expected / 1e9)


class TurningEncode:
    """Encodes rightly, but from the `num_right`-th call on it does not."""

    def __init__(self, num_right: int) -> None:
        self._num_left = num_right

    def __call__(self, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        self._num_left -= 1
        vectors = np.ones((len(prompts), 4), np.float32)
        return vectors if self._num_left >= 0 else -vectors


@pytest.mark.parametrize("is_right", [True, False])
def test_forward_that_turns_wrong_is_not_timed(is_right: bool) -> None:
    options = argparse.Namespace(users=[2], tokens=[30], rounds=3, warm_up=1)
    encode, expected = TurningEncode(4 if is_right else 3), TurningEncode(1)
    if is_right:
        assert set(encoder.time_sizes(encode, expected, 0.01, options)) == {(2, 30)}
        return
    with pytest.raises(WrongAnswer, match="a forward of 2 x 30 tokens gave other vectors"):
        encoder.time_sizes(encode, expected, 0.01, options)


def test_pytorchs_forward_counts_what_pytorch_counts(reference_checkpoint: Checkpoint) -> None:
    model, _ = reference_checkpoint.load_model()
    model.llm.set_attn_implementation("eager")
    config = model.llm.config
    with FlopCounterMode(display=False) as counter:
        pytorch.encode(model, make_prompts(NUM_USERS, NUM_TOKENS))
    rotary = NUM_TOKENS * config.head_dim  # angles, a product of vectors
    # Eager attention multiplies the pairs that the mask hides as well.
    hidden_pairs = NUM_USERS * NUM_TOKENS * (NUM_TOKENS - 1) // 2
    width = config.num_attention_heads * config.head_dim
    hidden = 4 * config.num_hidden_layers * hidden_pairs * width
    expected = flops.count_model_flop(config, NUM_USERS, NUM_TOKENS) + hidden
    assert counter.get_total_flops() == expected + rotary


def test_pytorchs_attentions_give_the_same_vectors(reference_checkpoint: Checkpoint) -> None:
    model, _ = reference_checkpoint.load_model()
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(rng.integers(0, 500, length, np.int32), make_prompts(1, length)[0].slot_ids)
        for length in (NUM_TOKENS, NUM_TOKENS - 7)
    ]
    expected = pytorch.encode(model, prompts)
    for attention in pytorch.ATTENTIONS.values():
        model.llm.set_attn_implementation(attention)
        np.testing.assert_allclose(pytorch.encode(model, prompts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", pytorch.ATTENTIONS)
@pytest.mark.parametrize("precision", LLM_DTYPES)
def test_pytorchs_forward_is_timed_beside_the_peak(
    reference_checkpoint_dir: Path, precision: str, attention: str
) -> None:
    options = ["--device=cpu", f"--precision={precision}", f"--attention={attention}"]
    sizes = ["--users", "1", "2", "--tokens=30", "--rounds=1", "--warm-up=1"]
    arguments = [str(reference_checkpoint_dir), *options, *sizes]
    result = pytorch.run(parse(pytorch.add_arguments, *arguments))
    assert result.precision == precision
    assert (result.runs_on["device"], result.runs_on["attention"]) == ("cpu", attention)
    assert msgspec.json.decode(msgspec.json.encode(result), type=encoder.Forwards) == result
    assert [figures.num_users for figures in result.sizes] == [1, 2]
    for figures in result.sizes:
        assert_consistent(figures, result.peak_gflop_per_s)


def test_pytorch_without_a_gpu_says_so(
    reference_checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MeasureError, match=r"finds no CUDA device.*--device cpu"):
        pytorch.run(parse(pytorch.add_arguments, str(reference_checkpoint_dir)))


def test_forward_that_is_not_finite_is_not_timed(reference_checkpoint: Checkpoint) -> None:
    model, _ = reference_checkpoint.load_model()
    model = copy.deepcopy(model)
    nn.init.constant_(model.heads.CLS, torch.nan)
    with pytest.raises(MeasureError, match="not finite; take another --precision"):
        pytorch.encode(model, make_prompts(1, 30))


PLAN = Plan(
    graph_sha256="",
    library="tensorrt",
    library_version="11",
    compute_capabilities=[],
    sizes=[Size(1, 384)],
)


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
    fields: dict[str, object] = {"precision": precision, "sizes": PLAN.sizes, "plan": PLAN}
    names = [field.name for field in msgspec.structs.fields(ENCODER_KINDS[backend])]
    given = {"backend": backend} | {name: fields[name] for name in names}
    kind = msgspec.convert(given, ENCODER_KINDS[backend])
    manifest = msgspec.structs.replace(read_manifest(reference_bundle), encoder=kind)
    assert encoder.roof_gflops(manifest) == roof
    assert asked == [(device, RECIPES[precision].dtype)]


def test_topk_is_timed_for_each_number_of_queries() -> None:
    options = parse(topk.add_arguments, "--items=500", "--queries", "1", "3", "-k=7")
    result = topk.run(options)
    assert [figures.num_queries for figures in result.times] == [1, 3]
    for figures in result.times:
        assert figures.ours_over_theirs == pytest.approx(figures.ours_ms / figures.theirs_ms)
        assert figures.gb_per_s == pytest.approx(500 * 128 * 4 / figures.ours_ms / 1e6)
        assert figures.share_of_peak == pytest.approx(figures.gb_per_s / result.peak_gb_per_s)


def test_topk_that_turns_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    rank, num_calls = TopKCase.rank_on_cpu, itertools.count()

    def turn(search: TopKCase, num_threads: int) -> list[Ranking]:
        rankings = rank(search, num_threads)
        if next(num_calls) < timing.NUM_TRIES:
            return rankings
        return [(rows[::-1], scores) for rows, scores in rankings]

    monkeypatch.setattr(TopKCase, "rank_on_cpu", turn)
    with pytest.raises(WrongAnswer, match="the top-k of 2 queries ranked otherwise"):
        topk.run(parse(topk.add_arguments, "--items=500", "--queries=2", "-k=7"))


def test_prompt_that_turns_wrong_is_not_timed(
    reference_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_calls = itertools.count()

    def turn(bundle: Bundle, history: History) -> Prompt:
        right = render_history(bundle, history)
        if next(num_calls) < 7:
            return right
        return Prompt(right.token_ids + 1, right.slot_ids)

    monkeypatch.setattr(prompt, "render_history", turn)
    with pytest.raises(WrongAnswer, match="prompt 2 was rendered to other tokens"):
        prompt.run(parse(prompt.add_arguments, str(reference_bundle), "--prompts=5"))


def test_prompts_are_compared_and_timed(reference_bundle: Path) -> None:
    figures = prompt.run(parse(prompt.add_arguments, str(reference_bundle), "--prompts=5"))
    assert figures.num_prompts == 5
    assert 100 < figures.mean_tokens < 1024
    ratio = figures.fragments_us / figures.tokenizing_us
    assert figures.fragments_over_tokenizing == pytest.approx(ratio)
    assert msgspec.json.encode(figures)
