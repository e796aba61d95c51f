"""Plans are refused, sized and assigned by rules that need neither a library nor a GPU."""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from engine.bundle.manifest import Bucket, Plan
from engine.encoders.tensorrt.library import Library, load_library
from engine.encoders.tensorrt.plan import check_plan
from engine.errors import EncodingFailed, PlanError
from engine.request import Prompt
from engine.sizes import assign
from export.build_engine import parse_bucket
from export.plan import BUCKET_TOKENS, measure_buckets
from llmsrec.prompt import MAX_PROMPT_TOKENS

ONE, USUAL, LONG = Bucket(1, 384), Bucket(4, 384), Bucket(2, 1024)
PLAN = Plan(
    graph_sha256="0" * 64,
    library="tensorrt_rtx",
    library_version="1.7",
    compute_capabilities=["8.6", "8.9"],
    buckets=[ONE, USUAL, LONG],
)


def prompts(*lengths: int) -> list[Prompt]:
    return [Prompt(np.zeros(length, np.int32), np.zeros(length, np.int32)) for length in lengths]


def assigned(*lengths: int) -> list[tuple[Bucket, int]]:
    return [
        (PLAN.buckets[place], len(prompts(*lengths)[part]))
        for place, part in assign(prompts(*lengths), PLAN.buckets)
    ]


def test_plan_of_another_library_version_is_refused_with_the_command() -> None:
    with pytest.raises(
        PlanError, match=r"by tensorrt_rtx 1\.7, installed is 1\.8.*check b --rebuild$"
    ):
        check_plan(PLAN, "1.8", "8.9", Path("b"))


def test_plan_for_other_gpus_is_refused_with_the_command() -> None:
    with pytest.raises(
        PlanError, match=r"capability 8\.6, 8\.9, this one has 12\.0.*--target 12\.0"
    ):
        check_plan(PLAN, "1.7", "12.0", Path("b"))


@pytest.mark.parametrize("capability", ["8.6", "8.9"])
def test_plan_for_this_gpu_passes(capability: str) -> None:
    check_plan(PLAN, "1.7", capability, Path("b"))
    check_plan(msgspec.structs.replace(PLAN, compute_capabilities=[]), "1.7", "9.9", Path("b"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("graph_sha256", "1" * 64),
        ("library", "tensorrt"),
        ("library_version", "1.8"),
        ("compute_capabilities", ["8.6"]),
        ("buckets", [ONE]),
    ],
)
def test_plan_with_another_origin_has_another_file(field: str, value: object) -> None:
    assert msgspec.structs.replace(PLAN, **{field: value}).file != PLAN.file
    assert msgspec.structs.replace(PLAN).file == PLAN.file


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([384], [(ONE, 1)]),
        ([100, 384], [(USUAL, 2)]),
        ([100] * 4, [(USUAL, 4)]),
        ([100] * 5, [(USUAL, 4), (ONE, 1)]),
        ([100] * 9, [(USUAL, 4), (USUAL, 4), (ONE, 1)]),
        ([385], [(LONG, 1)]),
        ([10, 1024, 10], [(LONG, 2), (LONG, 1)]),
    ],
)
def test_prompts_go_to_the_smallest_bucket_that_holds_them(
    lengths: list[int], expected: list[tuple[Bucket, int]]
) -> None:
    assert assigned(*lengths) == expected


def test_prompt_that_no_bucket_holds_is_refused() -> None:
    with pytest.raises(EncodingFailed, match=r"no bucket of the bundle holds .* 1025 tokens"):
        assigned(1025)


def test_buckets_are_one_user_the_usual_batch_and_the_longest_prompts() -> None:
    lengths = [300] * 98 + [380, 700]
    assert measure_buckets(lengths) == [
        Bucket(1, 384),
        Bucket(BUCKET_TOKENS // 384, 384),
        Bucket(BUCKET_TOKENS // MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS),
    ]


def test_usual_prompts_that_are_the_longest_need_no_bucket_of_their_own() -> None:
    assert measure_buckets([1020] * 50) == [Bucket(1, 1024), Bucket(16, 1024)]


@pytest.mark.parametrize("text", ["", "4", "x", "0x8", "8x0", "4x2000", "4x-1", "4 x 8", "٤x8"])
def test_profile_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not USERSxTOKENS"):
        parse_bucket(text)


def test_profile_is_users_by_tokens() -> None:
    assert parse_bucket("32x384") == Bucket(32, 384)


def test_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PlanError, match=r"^not installed: tensorrt, tensorrt_rtx; install"):
        load_library()
    with pytest.raises(PlanError, match=r"^not installed: tensorrt; install .*pip install"):
        load_library("tensorrt")


def test_first_library_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("tensorrt_rtx")
    installed.__version__ = "9.9"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", installed)
    library = load_library()
    assert (library.name, library.version) == ("tensorrt_rtx", "9.9")


def test_library_without_targets_compiles_for_none_of_them() -> None:
    library = Library("tensorrt", ModuleType("tensorrt"))
    library.check_targets([])
    with pytest.raises(PlanError, match=r"capability 8\.9; it knows only the GPU of the machine"):
        library.check_targets(["8.9"])
