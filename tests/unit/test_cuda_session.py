"""What ONNX Runtime lacks on a GPU is said with its remedy; sizes and options need no GPU."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engine.bundle.manifest import GRAPH_FILE, WEIGHTS_FILE
from engine.encoders.onnxruntime_cuda import encoder
from engine.encoders.onnxruntime_cuda.bound import BoundEncoder
from engine.encoders.onnxruntime_cuda.encoder import CudaEncoder
from engine.encoders.onnxruntime_cuda.session import OPTIONS, PROVIDER, open_session
from engine.errors import BackendUnavailable, EncodingFailed, GpuFailed
from engine.sizes import Size
from export.build_engine import make_parser
from export.command import choose_options
from export.errors import BuildError

ITEM_TABLE = np.zeros((3, 64), np.float32)
SIZES = [Size(2, 64)]
COMPLAINT = "Failed to load libcublas.so.13: cannot open shared object file"


class FakeSession:
    """A session that was given the providers it was asked for, and has one output."""

    asked: dict[str, Any]

    def __init__(self, graph: Path, options: object, **asked: Any) -> None:  # noqa: ANN401
        type(self).asked = {"graph": graph, "options": options, **asked}

    def get_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def get_outputs(self) -> list[onnxruntime.NodeArg]:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1048576\n")


class CpuSession(FakeSession):
    """What ONNX Runtime gives where CUDA does not start."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture(autouse=True)
def _gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the installed ONNX Runtime pass for one with CUDA, on a GPU with 100 MB free."""

    def preload() -> None:
        print(COMPLAINT)  # noqa: T201
        print("Please follow the guide.")  # noqa: T201

    available = [PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(encoder, "free_bytes", lambda: 100_000_000)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS_FILE).write_bytes(b"weights")
    return tmp_path


def test_onnxruntime_without_cuda_is_named_with_the_package_to_install(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BackendUnavailable,
        match=rf"installed with CPUExecutionProvider; {PROVIDER} is needed: pip .*onnxruntime-gpu",
    ):
        CudaEncoder(bundle, SIZES, ITEM_TABLE)


def test_cuda_that_does_not_start_is_an_error_though_a_session_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", CpuSession)
    with pytest.raises(
        BackendUnavailable, match=r"does not start: Failed .*file; it needs CUDA 13\.0"
    ) as e:
        open_session(Path(GRAPH_FILE))
    assert "follow the guide" not in str(e.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("nodes have not been partitioned", "docs/gpu.md names the versions that can"),
        ("Failed to allocate memory for requested buffer", "stop what else uses the GPU"),
    ],
)
def test_graph_that_the_gpu_does_not_take_is_an_error_with_its_words(
    monkeypatch: pytest.MonkeyPatch, problem: str, remedy: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(f"{problem}\n")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(BackendUnavailable, match=rf"cannot load .*: {problem}; {remedy}$"):
        open_session(Path(GRAPH_FILE))


def test_session_is_asked_for_cuda_graphs_in_the_graphs_own_precisions() -> None:
    open_session(Path(GRAPH_FILE))
    (name, options), fallback = FakeSession.asked["providers"]
    assert (name, fallback) == (PROVIDER, "CPUExecutionProvider")
    assert options == OPTIONS
    assert (options["enable_cuda_graph"], options["use_tf32"]) == ("1", "0")
    assert FakeSession.asked["enable_fallback"] is False


def test_weights_that_do_not_fit_are_refused_with_both_sizes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "free_bytes", lambda: 6_000_000)
    table = np.zeros((50_000, 64), np.float32)
    with pytest.raises(BackendUnavailable, match=r"has 6 MB free, 13 MB are needed .*--size"):
        CudaEncoder(bundle, SIZES, table)


def test_buffers_that_do_not_fit_are_refused_with_what_was_asked_for(bundle: Path) -> None:
    with pytest.raises(
        BackendUnavailable, match=r"buffer of size 1048576; the GPU has 100 MB free; stop"
    ):
        CudaEncoder(bundle, SIZES, ITEM_TABLE)


@pytest.fixture
def opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> CudaEncoder:
    """An encoder without buffers, which this ONNX Runtime cannot have on a GPU."""
    monkeypatch.setattr(BoundEncoder, "__init__", lambda *_: None)
    return CudaEncoder(bundle, SIZES, ITEM_TABLE)


def test_sizes_that_do_not_run_are_refused_when_the_bundle_is_opened(
    opened: CudaEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: BoundEncoder) -> None:
        raise EncodingFailed("could not run 2 prompts of 64 tokens: Failed to allocate 9 bytes")

    monkeypatch.setattr(BoundEncoder, "warm_up", fail)
    with pytest.raises(
        BackendUnavailable, match=r"2 prompts .* 9 bytes; the GPU has 100 MB free; stop"
    ):
        opened.warm_up()


@pytest.mark.parametrize("is_lost", [False, True])
def test_gpu_that_answers_no_more_has_failed_and_no_micro_batch_alone(
    opened: CudaEncoder, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    class AskedGpu:
        def synchronize(self) -> None:
            if is_lost:
                raise GpuFailed("cudaStreamSynchronize failed with cudaErrorIllegalAddress")

        def close(self) -> None: ...

    def fail(*_: object) -> None:
        raise EncodingFailed("could not run 2 prompts of 64 tokens")

    monkeypatch.setattr(BoundEncoder, "encode", fail)
    monkeypatch.setattr(encoder, "Gpu", AskedGpu)
    expected = GpuFailed if is_lost else EncodingFailed
    with pytest.raises(expected, match="could not run 2 prompts") as caught:
        opened.encode([], SIZES[0], "user_vector")
    assert ("IllegalAddress" in str(caught.value)) == is_lost


def test_warm_up_reports_what_memory_it_took(
    opened: CudaEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(BoundEncoder, "warm_up", lambda _: {SIZES[0]: 1.5})
    monkeypatch.setattr(encoder, "free_bytes", lambda: 40_000_000)
    with caplog.at_level(logging.INFO):
        assert opened.warm_up() == {SIZES[0]: 1.5}
    assert caplog.messages[-1].endswith(": 60 MB of GPU memory")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--backend", "onnxruntime-cuda", "--target", "8.9"], "need --backend tensorrt"),
        (["--backend", "onnxruntime-cuda", "--library", "tensorrt"], "need --backend tensorrt"),
        (["--size", "4x1024"], "--size needs --backend tensorrt or onnxruntime-cuda"),
    ],
)
def test_option_of_another_backend_is_refused(arguments: list[str], problem: str) -> None:
    parsed = make_parser().parse_args(["--checkpoint", "c", "--output", "o", *arguments])
    with pytest.raises(BuildError, match=problem):
        choose_options(parsed)


def test_fp16_is_what_a_gpu_gets_unless_told_otherwise() -> None:
    arguments = ["--checkpoint", "c", "--output", "o", "--backend", "onnxruntime-cuda"]
    made = choose_options(make_parser().parse_args([*arguments, "--size", "4x1024"]))
    assert (made.precision, made.plan.sizes) == ("fp16", [Size(4, 1024)])
