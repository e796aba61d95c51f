"""The top-k of a GPU is timed only where it finds what the CPU finds; here the kernels emulated."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.emulated_topk import EmulatedKernels, EmulatedTopK
from support.fake_cuda import FakeCuda

from engine.errors import PlanError
from engine.gpu import Gpu
from engine.query import Ranking
from perf import peaks, topk, topk_cuda


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


def searches(*arguments: str) -> list[topk_cuda.Search]:
    rng = np.random.default_rng(0)
    options = parse(*arguments)
    items = rng.standard_normal((options.items, topk.DIM), np.float32)
    return topk_cuda.draw(options, items, rng)


@pytest.mark.parametrize("dtype", topk_cuda.DTYPES)
def test_kernels_are_compared_with_the_cpu_and_timed(
    kernels: EmulatedKernels, gpu: Gpu, dtype: str
) -> None:
    drawn = searches(f"--dtype={dtype}", "--queries", "1", "5", "-k=20", "--exclusions=300")
    before = kernels.num_calls
    result = topk_cuda.measure(gpu, "cpu", drawn)
    assert kernels.num_calls - before == 2 * (1 + 1 + peaks.NUM_TRIES)
    assert (result.num_items, result.k, result.num_exclusions) == (900, 20, 300)
    assert [figures.num_queries for figures in result.figures] == [1, 5]
    num_bytes = 900 * 128 * (4 if dtype == "fp32" else 2)
    for figures in result.figures:
        assert figures.ours_over_pytorch == pytest.approx(figures.ours_ms / figures.pytorch_ms)
        assert figures.gb_per_s == pytest.approx(num_bytes / figures.ours_ms / 1e6)
        assert figures.share_of_peak == pytest.approx(figures.gb_per_s / result.peak_gb_per_s)


def test_answers_hold_no_excluded_item_in_the_kernels_and_in_pytorch(gpu: Gpu) -> None:
    (search,) = searches("--queries=3", "-k=50", "--exclusions=840")
    on_device = topk_cuda.DeviceSearch(gpu, search)
    theirs = topk_cuda.make_pytorch(search, "cpu")().numpy()
    for query, (rows, scores) in enumerate(on_device.results()):
        assert len(rows) == 50
        assert not set(rows) & set(search.excluded_rows[query])
        np.testing.assert_array_equal(rows, theirs[query])
        expected = search.items.numpy()[rows] @ search.queries[query]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_fewer_items_than_k_give_all_of_them(gpu: Gpu) -> None:
    drawn = searches("--items=60", "--queries=2", "-k=100", "--exclusions=10")
    assert len(topk_cuda.measure(gpu, "cpu", drawn).figures) == 1


@pytest.mark.parametrize("wrong", ["rows", "scores"])
def test_another_ranking_is_not_timed(gpu: Gpu, wrong: str) -> None:
    (search,) = searches("--queries=2", "-k=5")
    on_device = topk_cuda.DeviceSearch(gpu, search)
    (rows, scores), *others = on_device.results()
    change: Callable[[NDArray[Any]], NDArray[Any]] = np.flip
    first = (change(rows), scores) if wrong == "rows" else (rows, np.nextafter(scores, np.inf))
    with pytest.raises(AssertionError, match="not equal"):
        topk_cuda.require_equal([first, *others], search)


def test_kernels_that_rank_otherwise_than_the_cpu_are_not_timed(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = topk_cuda.DeviceSearch.results

    def reverse_results(topk: topk_cuda.DeviceSearch) -> list[Ranking]:
        return [(rows[::-1], scores) for rows, scores in results(topk)]

    monkeypatch.setattr(topk_cuda.DeviceSearch, "results", reverse_results)
    with pytest.raises(AssertionError, match="not equal"):
        topk_cuda.measure(gpu, "cpu", searches("--queries=2", "-k=5"))


def test_kernels_that_are_not_built_are_named(
    kernels: EmulatedKernels,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", None)
    with pytest.raises(PlanError, match=r"CUDA kernels .* are not built.*nvcc 12"):
        topk.run(parse())


@pytest.mark.parametrize("flag", ["--dtype=fp16", "--exclusions=5"])
def test_what_only_the_gpu_does_is_refused_on_the_cpu(flag: str) -> None:
    with pytest.raises(SystemExit, match="need --device cuda"):
        topk.run(parse("--device=cpu", flag))
