"""Plans are refused and sized by rules that need neither a library nor a GPU."""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from engine.bundle.manifest import Plan
from engine.encoders.tensorrt.library import Library, load_library
from engine.encoders.tensorrt.plan import check_plan
from engine.errors import BackendUnavailable, PlanError
from engine.sizes import Size
from export.build_engine import parse_size
from export.plan import SIZE_TOKENS, measure_sizes
from llmsrec.prompt import MAX_PROMPT_TOKENS

ONE, USUAL, LONG = Size(1, 384), Size(4, 384), Size(2, 1024)
PLAN = Plan(
    graph_sha256="0" * 64,
    library="tensorrt_rtx",
    library_version="1.7",
    compute_capabilities=["8.6", "8.9"],
    sizes=[ONE, USUAL, LONG],
)


def test_plan_of_another_library_version_is_refused_with_the_command() -> None:
    with pytest.raises(PlanError, match=r"by tensorrt_rtx 1\.7, installed is 1\.8.*rebuild b$"):
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
        ("sizes", [ONE]),
    ],
)
def test_plan_with_another_origin_has_another_file(field: str, value: object) -> None:
    assert msgspec.structs.replace(PLAN, **{field: value}).file != PLAN.file
    assert msgspec.structs.replace(PLAN).file == PLAN.file


def test_sizes_are_one_user_the_usual_batch_and_the_longest_prompts() -> None:
    lengths = [300] * 98 + [380, 700]
    assert measure_sizes(lengths) == [
        Size(1, 384),
        Size(SIZE_TOKENS // 384, 384),
        Size(SIZE_TOKENS // MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS),
    ]


def test_usual_prompts_that_are_the_longest_need_no_size_of_their_own() -> None:
    assert measure_sizes([1020] * 50) == [Size(1, 1024), Size(16, 1024)]


@pytest.mark.parametrize("text", ["", "4", "x", "0x8", "8x0", "4x2000", "4x-1", "4 x 8", "٤x8"])
def test_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not USERSxTOKENS"):
        parse_size(text)


def test_size_is_users_by_tokens() -> None:
    assert parse_size("32x384") == Size(32, 384)


def test_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        BackendUnavailable, match=r"^not installed: tensorrt, tensorrt_rtx; install"
    ):
        load_library()
    with pytest.raises(
        BackendUnavailable, match=r"^not installed: tensorrt; install .*pip install"
    ):
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
