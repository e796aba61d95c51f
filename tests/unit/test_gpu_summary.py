"""What a GPU run is meant to reach stands beside what it measured, whichever steps are missing."""

from pathlib import Path

import msgspec
import pytest
from test_load_report import make_outcome, make_result

from perf import encoder, topk
from perf.gpu import summary
from perf.load.batches import Batches
from perf.load.result import Latency

LOAD_FILE = "llama-3.2-3b-onnxruntime-cuda-load.json"


def write(path: Path, value: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.encode(value))


def forwards(*users_per_s: float, num_tokens: int = 350) -> list[encoder.Forward]:
    times_ms = {
        encoder.Size(num_users, num_tokens): num_users / speed * 1e3
        for num_users, speed in enumerate(users_per_s, start=1)
    }
    return encoder.describe(times_ms, lambda users, _: users * 10**12, {}, "bf16", 5e5).sizes


def write_pytorch(path: Path, *users_per_s: float) -> None:
    write(path, encoder.Forwards({"device": "a GPU"}, "bf16", 5e5, forwards(*users_per_s)))


def write_topk(
    path: Path, *, ours_ms: float, num_items: int = 1_000_000, num_exclusions: int = 9
) -> None:
    time = topk.TopKTime(64, ours_ms, 1.0, ours_ms, 300.0, 0.1)
    sizes = num_items, 100, "float16", num_exclusions
    write(path, topk.TopKTimes("pytorch", *sizes, "cuda", 3000.0, [time]))


def write_load(path: Path, *, tokens_per_s: float, p99_ms: float) -> None:
    batches = Batches(mean_prompts=4.0, padding_share=0.1, tokens_per_s=tokens_per_s, sizes=[])
    latency = Latency(1.0, 2.0, p99_ms, p99_ms, p99_ms)
    result = msgspec.structs.replace(make_result(), batches=batches, latency=latency)
    write(path, make_outcome(result))


def find(lines: list[str], *words: str) -> str:
    (line,) = (line for line in lines if all(word in line for word in words))
    return line


def test_nothing_measured_claims_nothing(tmp_path: Path) -> None:
    _, *lines = summary.summarise(tmp_path)
    assert len(lines) == 5
    assert all(line.endswith("not measured  -") for line in lines)


@pytest.mark.parametrize(
    ("ours_ms", "num_items", "num_exclusions", "end"),
    [
        (0.9, 1_000_000, 9, "0.900  met"),
        (1.1, 1_000_000, 9, "1.100  MISSED"),
        (0.9, 1000, 9, "not measured  -"),
        (0.9, 1_000_000, 0, "not measured  -"),
    ],
    ids=["fast", "slow", "few items", "no exclusions"],
)
def test_topk_counts_at_the_size_of_its_bar(
    tmp_path: Path, ours_ms: float, num_items: int, num_exclusions: int, end: str
) -> None:
    sizes = {"num_items": num_items, "num_exclusions": num_exclusions}
    write_topk(tmp_path / "topk-fp16.json", ours_ms=ours_ms, **sizes)
    assert find(list(summary.summarise(tmp_path)), "top-k").endswith(end)


@pytest.mark.parametrize(
    ("tokens_per_s", "p99_ms", "rate", "latency"),
    [(88_000.0, 99.0, "220.0  met", "99.0  met"), (84_000.0, 101.0, "210.0  MISSED", "MISSED")],
)
def test_served_rate_is_that_of_prompts_of_400_tokens(
    tmp_path: Path, tokens_per_s: float, p99_ms: float, rate: str, latency: str
) -> None:
    write_load(tmp_path / LOAD_FILE, tokens_per_s=tokens_per_s, p99_ms=p99_ms)
    lines = list(summary.summarise(tmp_path))
    line = find(lines, "onnxruntime-cuda, Recommend")
    assert line.endswith(rate)
    assert lines[lines.index(line) + 1].endswith(latency)
    assert find(lines, "tensorrt, Recommend").endswith("not measured  -")


def test_best_batches_are_compared_at_the_same_length(tmp_path: Path) -> None:
    ours = [*forwards(100.0, 330.0, 300.0), *forwards(500.0, num_tokens=450)]
    result = encoder.Forwards({}, "fp16", 5e5, ours)
    write(tmp_path / "smollm2-135m-tensorrt-encoder.json", result)
    write_pytorch(tmp_path / "smollm2-135m-pytorch.json", 100.0, 200.0)
    write_pytorch(tmp_path / "smollm2-135m-pytorch-compiled.json", 250.0, 240.0)
    lines = list(summary.summarise(tmp_path))
    assert find(lines, "smollm2-135m, 350", "tensorrt fp16 / PyTorch bf16").endswith("1.65  met")
    assert find(lines, "smollm2-135m, 350", "torch.compile bf16").endswith("1.32  MISSED")
    assert not any("450 tokens" in line for line in lines)


def test_curves_tell_the_roof_and_the_share_of_it(tmp_path: Path) -> None:
    write_pytorch(tmp_path / "llama-3.2-3b-pytorch.json", 100.0, 200.0)
    lines = list(summary.summarise(tmp_path))
    title = find(lines, "llama-3.2-3b, random weights: PyTorch bf16", "500 TFLOP/s")
    second = lines[lines.index(title) + 3].split()
    assert second == ["350", "2", "10.00", "200.0", "500.0", "40.0%"]


def test_a_cpus_figures_are_held_to_no_bar(tmp_path: Path) -> None:
    result = encoder.Forwards({}, "fp32", 5e5, forwards(100.0))
    write(tmp_path / "tiny-onnxruntime-encoder.json", result)
    write_pytorch(tmp_path / "tiny-pytorch.json", 100.0)
    lines = list(summary.summarise(tmp_path))
    assert not any("/ PyTorch" in line for line in lines)
    assert find(lines, "tiny, random weights: onnxruntime fp32")
