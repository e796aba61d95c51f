"""The top-k of a GPU is timed only where it finds what the CPU finds; here the kernels emulated."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.emulated_topk import EmulatedKernels, EmulatedTopK
from support.fake_cuda import FakeCuda

from engine.errors import BackendUnavailable
from engine.gpu import Gpu
from engine.ranking.ranker import cut
from perf import peaks, timing, topk
from perf.errors import MeasureError, WrongAnswer
from perf.gpu import topk as gpu_topk


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return EmulatedKernels(EmulatedTopK(tmp_path_factory.mktemp("emulation")))


@pytest.fixture
def kernels(emulated: EmulatedKernels, monkeypatch: pytest.MonkeyPatch) -> EmulatedKernels:
    """A machine with a GPU: CUDA's runtime on the host, and the kernels' code there."""
    cuda = FakeCuda()

    def queue_topk(shape: SimpleNamespace, **arguments: int) -> None:
        cuda.queue(lambda: emulated.masked_topk(shape, **arguments))

    queueing = SimpleNamespace(TopKShape=emulated.TopKShape, masked_topk=queue_topk)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", queueing)
    return emulated


@pytest.fixture
def gpu(kernels: EmulatedKernels) -> Iterator[Gpu]:  # noqa: ARG001
    with closing(Gpu()) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _low_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "READ_BYTES", 1 << 20)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    topk.add_arguments(parser)
    return parser.parse_args(["--device=cuda", "--items=900", *arguments])


def searches(*arguments: str) -> list[gpu_topk.TopKCase]:
    return gpu_topk.draw(parse(*arguments), topk.DIM)


def measure(gpu: Gpu, searches: list[gpu_topk.TopKCase]) -> topk.TopKTimes:
    return topk.measure(searches, partial(gpu_topk.time_both, gpu, "cpu"), "pytorch", "cpu")


@pytest.mark.parametrize("dtype", gpu_topk.DTYPES)
def test_kernels_are_compared_with_the_cpu_and_timed(
    kernels: EmulatedKernels, gpu: Gpu, dtype: str
) -> None:
    drawn = searches(f"--dtype={dtype}", "--queries", "1", "5", "-k=20", "--exclusions=300")
    before = kernels.num_calls
    result = measure(gpu, drawn)
    assert kernels.num_calls - before == 2 * (1 + timing.NUM_TRIES)
    assert (result.num_items, result.k, result.num_exclusions) == (900, 20, 300)
    assert [figures.num_queries for figures in result.times] == [1, 5]
    num_bytes = 900 * 128 * (4 if dtype == "fp32" else 2)
    for figures in result.times:
        assert figures.ours_over_theirs == pytest.approx(figures.ours_ms / figures.theirs_ms)
        assert figures.gb_per_s == pytest.approx(num_bytes / figures.ours_ms / 1e6)
        assert figures.share_of_peak == pytest.approx(figures.gb_per_s / result.peak_gb_per_s)


def test_answers_hold_no_excluded_item_in_the_kernels_and_in_pytorch(gpu: Gpu) -> None:
    (search,) = searches("--queries=3", "-k=50", "--exclusions=840")
    found = cut(*gpu_topk.make_ours(gpu, search)())
    _, theirs = gpu_topk.make_pytorch(search, "cpu")()
    for query, (rows, scores) in enumerate(found):
        assert len(rows) == 50
        assert not set(rows) & set(search.excluded_rows[query])
        np.testing.assert_array_equal(rows, theirs[query].numpy())
        expected = search.items.numpy()[rows] @ search.queries[query]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_fewer_items_than_k_give_all_of_them(gpu: Gpu) -> None:
    drawn = searches("--items=60", "--queries=2", "-k=100", "--exclusions=10")
    assert len(measure(gpu, drawn).times) == 1


@pytest.mark.parametrize("wrong", ["rows", "scores"])
def test_kernels_that_turn_wrong_while_they_are_timed_are_not_timed(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    make_ours = gpu_topk.make_ours

    def make_turning(gpu: Gpu, search: gpu_topk.TopKCase) -> Callable[[], gpu_topk.Arrays]:
        rank, num_calls = make_ours(gpu, search), itertools.count()

        def turn() -> gpu_topk.Arrays:
            rows, scores = rank()
            if next(num_calls) < timing.NUM_TRIES:
                return rows, scores
            return (rows[:, ::-1], scores) if wrong == "rows" else (rows, scores + 1)

        return turn

    monkeypatch.setattr(gpu_topk, "make_ours", make_turning)
    with pytest.raises(WrongAnswer, match="2 queries on the GPU ranked otherwise"):
        measure(gpu, searches("--queries=2", "-k=5"))


def test_pytorch_that_ranks_otherwise_is_not_stood_beside(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_wrong(search: gpu_topk.TopKCase, device: str) -> Callable[[], Any]:
        assert device == "cpu"
        size = (len(search.queries), search.k)
        return lambda: (torch.zeros(size), torch.arange(search.k).expand(size))

    monkeypatch.setattr(gpu_topk, "make_pytorch", make_wrong)
    with pytest.raises(WrongAnswer, match="by PyTorch, ranked otherwise"):
        measure(gpu, searches("--queries=2", "-k=5"))


def test_kernels_that_are_not_built_are_named(
    kernels: EmulatedKernels,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", None)
    with pytest.raises(BackendUnavailable, match=r"CUDA kernels .* are not built.*nvcc 12"):
        topk.run(parse())


@pytest.mark.parametrize("flag", ["--dtype=fp16", "--exclusions=5"])
def test_what_only_the_gpu_does_is_refused_on_the_cpu(flag: str) -> None:
    with pytest.raises(MeasureError, match="need --device cuda"):
        topk.run(parse("--device=cpu", flag))
