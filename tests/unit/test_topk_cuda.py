"""The top-k of a GPU is timed only where it finds what the CPU finds; here the kernels emulated."""

import argparse
import ctypes
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated_topk import ITEM_DTYPES, EmulatedTopK, Launch, _Buffers, _Shape
from numpy.typing import NDArray

from engine.retrieval import Ranking
from perf import peaks, topk, topk_cuda


class HostMemory:
    """In the place of a GPU's: addresses are the host's own."""

    stream = 1

    def __init__(self) -> None:
        self._buffers: list[NDArray[np.uint8]] = []

    def allocate(self, num_bytes: int) -> int:
        self._buffers.append(np.full(num_bytes, 0xA5, np.uint8))
        return self._buffers[-1].ctypes.data

    def upload(self, address: int, array: NDArray[Any]) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: NDArray[Any], address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def synchronize(self) -> None:
        pass


class EmulatedKernels:
    """In the place of `_native_cuda`: the same code on the host."""

    def __init__(self, emulated: EmulatedTopK) -> None:
        self._library = emulated._library
        self.num_calls = 0

    def TopKShape(self, **sizes: object) -> SimpleNamespace:  # noqa: N802
        names = ("num_queries", "num_items", "dim", "max_k")
        item_type = ITEM_DTYPES.index(str(sizes["item_dtype"]))
        described = _Shape(*(sizes[name] for name in names), 0, item_type)
        num_bytes = self._library.workspace_bytes(ctypes.byref(described))
        return SimpleNamespace(described=described, workspace_bytes=num_bytes)

    def masked_topk(self, shape: SimpleNamespace, **arguments: int) -> None:
        self.num_calls += 1
        assert arguments["stream"] == HostMemory.stream
        buffers = _Buffers(*(arguments[name] for name, *_ in _Buffers._fields_))
        launch = Launch()
        self._library.masked_topk(
            ctypes.byref(shape.described),
            ctypes.byref(buffers),
            ctypes.c_void_p(arguments["workspace"]),
            ctypes.c_int64(launch.num_blocks),
            ctypes.c_bool(launch.is_wide),
            ctypes.c_bool(launch.is_reversed),
        )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return EmulatedKernels(EmulatedTopK(tmp_path_factory.mktemp("emulation")))


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
def test_kernels_are_compared_with_the_cpu_and_timed(kernels: EmulatedKernels, dtype: str) -> None:
    drawn = searches(f"--dtype={dtype}", "--queries", "1", "5", "-k=20", "--exclusions=300")
    before = kernels.num_calls
    result = topk_cuda.measure(kernels, HostMemory(), "cpu", drawn)
    assert kernels.num_calls - before == 2 * (1 + 1 + peaks.NUM_TRIES)
    assert (result.num_items, result.k, result.num_exclusions) == (900, 20, 300)
    assert [figures.num_queries for figures in result.figures] == [1, 5]
    num_bytes = 900 * 128 * (4 if dtype == "fp32" else 2)
    for figures in result.figures:
        assert figures.ours_over_pytorch == pytest.approx(figures.ours_ms / figures.pytorch_ms)
        assert figures.gb_per_s == pytest.approx(num_bytes / figures.ours_ms / 1e6)
        assert figures.share_of_peak == pytest.approx(figures.gb_per_s / result.peak_gb_per_s)


def test_answers_hold_no_excluded_item_in_the_kernels_and_in_pytorch(
    kernels: EmulatedKernels,
) -> None:
    (search,) = searches("--queries=3", "-k=50", "--exclusions=840")
    on_device = topk_cuda.DeviceTopK(kernels, HostMemory(), search)
    on_device.run()
    theirs = topk_cuda.make_pytorch(search, "cpu")().numpy()
    for query, (rows, scores) in enumerate(on_device.results()):
        assert len(rows) == 50
        assert not set(rows) & set(search.excluded_rows[query])
        np.testing.assert_array_equal(rows, theirs[query])
        expected = search.items.numpy()[rows] @ search.queries[query]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_fewer_items_than_k_give_all_of_them(kernels: EmulatedKernels) -> None:
    drawn = searches("--items=60", "--queries=2", "-k=100", "--exclusions=10")
    assert len(topk_cuda.measure(kernels, HostMemory(), "cpu", drawn).figures) == 1


@pytest.mark.parametrize("wrong", ["rows", "scores"])
def test_another_ranking_is_not_timed(kernels: EmulatedKernels, wrong: str) -> None:
    (search,) = searches("--queries=2", "-k=5")
    on_device = topk_cuda.DeviceTopK(kernels, HostMemory(), search)
    on_device.run()
    (rows, scores), *others = on_device.results()
    change: Callable[[NDArray[Any]], NDArray[Any]] = np.flip
    first = (change(rows), scores) if wrong == "rows" else (rows, np.nextafter(scores, np.inf))
    with pytest.raises(AssertionError, match="not equal"):
        topk_cuda.require_equal([first, *others], search)


def test_kernels_that_rank_otherwise_than_the_cpu_are_not_timed(
    kernels: EmulatedKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = topk_cuda.DeviceTopK.results

    def reverse_results(topk: topk_cuda.DeviceTopK) -> list[Ranking]:
        return [(rows[::-1], scores) for rows, scores in results(topk)]

    monkeypatch.setattr(topk_cuda.DeviceTopK, "results", reverse_results)
    with pytest.raises(AssertionError, match="not equal"):
        topk_cuda.measure(kernels, HostMemory(), "cpu", searches("--queries=2", "-k=5"))


def test_kernels_that_are_not_built_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", None)
    with pytest.raises(SystemExit, match=r"CUDA kernels are not built.*nvcc 12"):
        topk.run(parse())


def test_machine_without_a_device_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = SimpleNamespace(device_count=lambda: 0)
    monkeypatch.setitem(sys.modules, "engine.native._native_cuda", kernels)
    with pytest.raises(SystemExit, match="no CUDA device is found"):
        topk.run(parse())


@pytest.mark.parametrize("flag", ["--dtype=fp16", "--exclusions=5"])
def test_what_only_the_gpu_does_is_refused_on_the_cpu(flag: str) -> None:
    with pytest.raises(SystemExit, match="need --device cuda"):
        topk.run(parse("--device=cpu", flag))
