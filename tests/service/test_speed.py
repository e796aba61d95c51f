"""What the engine is fast for stays fast: ratios of two timings of one run, with room for noise.

Each bar lies between what is usually measured (perf/README.md) and what a regression would give;
a machine that others use slows both sides.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, LlamaConfig

from engine.bundle.manifest import Precision
from engine.config import EncoderConfig
from engine.encoders.cpu import CpuEncoder
from engine.query import fill
from engine.sizes import Size
from export.calibration import Calibration
from export.encoder_graph import EncoderGraph
from export.onnx_export import export_onnx
from export.recipes import RECIPES
from llmsrec.model import Heads, LLMSRec
from perf import prompt, topk

NUM_ROUNDS = 9
NUM_TOKENS = 350
SMOLLM2_SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 4,
}


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Compare the fastest of several rounds that run both in turn."""
    times: list[tuple[float, float]] = []
    for _ in range(NUM_ROUNDS):
        started = time.perf_counter()
        ours()
        between = time.perf_counter()
        theirs()
        times.append((between - started, time.perf_counter() - between))
    return min(mine for mine, _ in times) / min(other for _, other in times)


def has_vnni() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_vnni" in flags.read_text(encoding="utf-8")


def open_encoder(model: LLMSRec, folder: Path, precision: Precision) -> CpuEncoder:
    folder.mkdir()
    export_onnx(EncoderGraph(model), folder)
    if (rewrite := RECIPES[precision].rewrite) is not None:
        rewrite(folder, Calibration([], model.item_table.numpy()))
    return CpuEncoder(folder, model.item_table.numpy(), EncoderConfig())


def parse(add_arguments: Callable[[argparse.ArgumentParser], None], *texts: str) -> Any:  # noqa: ANN401
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(texts)


@pytest.mark.slow
@pytest.mark.skipif(not has_vnni(), reason="needs a processor with AVX-512 VNNI")
def test_int16_takes_less_than_four_fifths_of_fp32(tmp_path: Path) -> None:
    decoder = AutoModel.from_config(LlamaConfig(**SMOLLM2_SHAPE))
    model = LLMSRec(decoder, Heads(576), torch.zeros(1, 64)).eval()
    exact = open_encoder(model, tmp_path / "fp32", "fp32")
    quantized = open_encoder(model, tmp_path / "int16", "int16")
    size = Size(1, NUM_TOKENS)
    measured = ratio(
        lambda: quantized.encode(fill(size), size, "user_vector"),
        lambda: exact.encode(fill(size), size, "user_vector"),
    )
    assert measured < 0.8


@pytest.mark.slow
def test_topk_of_many_queries_takes_less_than_half_of_numpys_time() -> None:
    options = parse(topk.add_arguments, "--items=200000", "--queries", "16", "-k=100")
    (figures,) = topk.run(options).times
    assert figures.ours_over_theirs < 0.5


def test_fragments_take_less_than_a_quarter_of_tokenizing(reference_bundle: Path) -> None:
    figures = prompt.run(parse(prompt.add_arguments, str(reference_bundle), "--prompts=200"))
    assert figures.fragments_over_tokenizing < 0.25
