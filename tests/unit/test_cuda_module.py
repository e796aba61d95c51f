"""The CUDA module, as far as a machine without a GPU can tell."""

import importlib
import os
import shutil
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def native() -> ModuleType:
    if not (shutil.which("nvcc") or os.environ.get("CUDACXX")):
        pytest.skip("needs nvcc to build the CUDA kernels")
    return importlib.import_module("engine.native._native_cuda")


SHAPE = {"num_queries": 2, "num_items": 100, "dim": 8, "max_k": 5, "item_dtype": "float16"}


def call(native: ModuleType, shape: dict[str, object], **changes: int) -> None:
    described = native.TopKShape(**(SHAPE | shape))
    names = ("queries", "items", "excluded_rows", "excluded_offsets", "k", "rows", "scores")
    arguments = dict.fromkeys(names, 4096) | {
        "workspace": 4096,
        "workspace_bytes": described.workspace_bytes,
        "stream": 0,
    }
    native.masked_topk(described, **(arguments | changes))


def test_where_nvcc_is_the_module_imports_and_names_its_architectures(native: ModuleType) -> None:
    architectures = native.built_architectures()
    assert architectures
    assert architectures == sorted(architectures)


def test_a_machine_without_a_device_is_told_so(native: ModuleType) -> None:
    if native.device_count() > 0:
        pytest.skip("needs a machine without a CUDA device")
    with pytest.raises(RuntimeError, match=r"finding the device: .*(driver|device)"):
        call(native, {})


@pytest.mark.parametrize("empty", ["num_queries", "max_k"])
def test_nothing_to_rank_needs_no_device(native: ModuleType, empty: str) -> None:
    call(native, {empty: 0}, rows=0, scores=0, workspace=0)


def test_the_workspace_is_small_beside_the_items(native: ModuleType) -> None:
    shape = native.TopKShape(
        num_queries=64, num_items=100_000_000, dim=128, max_k=100, item_dtype="float16"
    )
    assert shape.workspace_bytes < 100_000_000 * 128 * 2 / 25


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"num_queries": -1}, "num_queries: expected 0 to 65535; got -1"),
        ({"num_queries": 65536}, "num_queries: expected 0 to 65535; got 65536"),
        ({"num_items": 2**31}, "num_items: expected 0 to 2147483647; got 2147483648"),
        ({"dim": 0}, "dim: expected 1 to 65536; got 0"),
        ({"max_k": -1}, "max_k: expected 0 to"),
        ({"item_dtype": "int8"}, "item_dtype: expected float32, .*; got 'int8'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_unfit_shapes_are_refused(
    native: ModuleType, shape: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(native, shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries: expected a device address; got 0"),
        ({"items": 4097}, "items: expected a multiple of 2 bytes; got 4097"),
        ({"k": 4098}, "k: expected a multiple of 4 bytes; got 4098"),
        ({"excluded_offsets": 4100}, "excluded_offsets: expected a multiple of 8 bytes"),
        ({"workspace": 4352 + 128}, "workspace: expected a multiple of 256 bytes"),
        ({"workspace_bytes": 100}, r"workspace_bytes: expected at least \d+; got 100"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_unfit_addresses_are_refused(
    native: ModuleType, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(native, {}, **changes)
