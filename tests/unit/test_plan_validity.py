"""What the library says of a plan reaches the figures; here what it says without a GPU."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest

from engine.encoders.tensorrt.library import Library, load_library
from engine.errors import PlanError
from perf.gpu import plan_validity


class Logger(Protocol):
    def log(self, severity: int, text: str) -> None: ...


class FakeRuntime:
    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> object | None:
        if plan == b"good":
            return object()
        self._logger.log(2, "by the way")
        self._logger.log(1, "no plan")
        return None


class TellingRuntime(FakeRuntime):
    def get_engine_validity(self, plan: bytes) -> tuple[SimpleNamespace, int]:
        name, bits = ("VALID", 0) if plan == b"good" else ("INVALID", 5)
        return SimpleNamespace(name=name), bits


def library(runtime: type[FakeRuntime]) -> Library:
    flags = SimpleNamespace(__members__={"A": 1, "B": 2, "C": 4})
    severity = SimpleNamespace(ERROR=1)
    module = SimpleNamespace(
        ILogger=type("ILogger", (), {"Severity": severity}),
        Runtime=runtime,
        EngineInvalidityDiagnostics=flags,
    )
    return Library("tensorrt_rtx", module)


def test_plan_that_loads_is_told_from_one_that_does_not() -> None:
    good = plan_validity.examine(library(TellingRuntime), b"good")
    assert (good.validity, good.reasons, good.loads, good.errors) == ("valid", [], True, [])
    bad = plan_validity.examine(library(TellingRuntime), b"bad")
    expected = ("invalid", ["a", "c"], False, ["no plan"])
    assert (bad.validity, bad.reasons, bad.loads, bad.errors) == expected


def test_library_that_does_not_judge_headers_still_loads() -> None:
    verdict = plan_validity.examine(library(FakeRuntime), b"good")
    assert (verdict.validity, verdict.loads) == (None, True)


@pytest.mark.tensorrt
def test_what_is_no_plan_does_not_load() -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    verdict = plan_validity.examine(load_library("tensorrt_rtx"), bytes(4096))
    assert verdict.validity == "invalid"
    assert verdict.reasons
    assert not verdict.loads
    assert any("plan" in error or "engine" in error for error in verdict.errors)


def test_bundle_without_a_plan_is_refused(reference_bundle: Path) -> None:
    with pytest.raises(PlanError, match="holds no plan; build it with --backend tensorrt"):
        plan_validity.run(argparse.Namespace(bundle=reference_bundle))
