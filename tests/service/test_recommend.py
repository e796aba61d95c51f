"""`Recommend` beside the bare forward: both give what PyTorch gives, or there is no figure."""

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine import Recommendation, RecommendRequest
from engine.rpc.client import recommend
from perf.__main__ import main
from perf.answers import Vectors, require_vectors


@pytest.fixture
def run(
    reference_bundle: Path, reference_checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], int]:
    words = [str(reference_bundle), f"--checkpoint={reference_checkpoint_dir}"]
    flags = ["--rounds=2", "--warm-up=1"]
    monkeypatch.setattr(sys, "argv", ["perf", "recommend", *words, *flags])
    return main


def test_ratios_are_of_the_medians(
    run: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    figures = json.loads(capsys.readouterr().out)
    ratio = figures["recommend_ms"] / figures["forward_ms"]
    assert figures["recommend_over_forward"] == pytest.approx(ratio)
    ratio = figures["forward_ms"] / figures["pytorch_ms"]
    assert figures["forward_over_pytorch"] == pytest.approx(ratio)
    assert 200 < figures["num_tokens"] < 500
    assert figures["server_peak_mb"] > 20


def test_server_that_turns_wrong_is_not_measured(
    run: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    num_calls = itertools.count()

    def turn(address: str, request: RecommendRequest, timeout_s: float) -> Recommendation:
        answer = recommend(address, request, timeout_s)
        if next(num_calls) < 2:
            return answer
        return replace(answer, items=[*answer.items[1:], answer.items[0]])

    monkeypatch.setattr("perf.recommend.recommend", turn)
    assert run() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: Recommend ranked otherwise while it was timed" in printed.err


def test_forward_that_turns_wrong_is_not_measured(
    run: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    num_calls = itertools.count()

    def turn(what: str, found: Vectors, expected: Vectors, tolerance: float) -> None:
        wrong = what == "the forward" and next(num_calls) == 2
        require_vectors(what, -found if wrong else found, expected, tolerance)

    monkeypatch.setattr("perf.recommend.require_vectors", turn)
    assert run() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: the forward gave other vectors while it was timed" in printed.err
