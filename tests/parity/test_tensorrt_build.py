"""TensorRT-RTX compiles the encoder here, without a GPU; what it gives on one is not tested."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.progress import Progress
from support.plans import plan_of

from engine import Interaction, Recommender, RecommendRequest
from engine.__main__ import main
from engine.bundle.manifest import GRAPH_FILE, Plan, Precision, read_manifest, verify_files
from engine.encoders.tensorrt.compiler import MAX_ITEMS, compile_plan, configure, make_profile
from engine.encoders.tensorrt.library import load_library, make_logger
from engine.errors import BackendUnavailable, BundleError, PlanError
from engine.sizes import Size
from engine.upkeep.rebuild import rebuild_plan
from export import plan as export_plan
from export.build import BuildOptions, build
from export.encoder_graph import EncoderGraph
from export.errors import BuildError
from export.onnx_export import export_onnx
from export.plan import PlanOptions
from export.recipes import RECIPES
from llmsrec import llm
from llmsrec.checkpoint import Checkpoint
from llmsrec.model import Heads, LLMSRec
from llmsrec.settings import SMOLLM2

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
pytestmark = pytest.mark.tensorrt

THREE_SIZES = (Size(1, 384), Size(8, 384), Size(2, 1024))
FUSED = {"Attention", "RMSNormalization", "RotaryEmbedding"}
NO_BARS = Progress(disable=True)


def quiet(phase: str, num_done: int, num_steps: int) -> None:
    """Report nothing."""


def built(checkpoint: Checkpoint, output: Path, precision: Precision = "fp16") -> Plan:
    settings = BuildOptions("tensorrt", precision, PlanOptions(sizes=THREE_SIZES))
    return plan_of(build(checkpoint, output, settings, NO_BARS))


@pytest.fixture(scope="module")
def pristine(reference_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("compiled") / "bundle"
    built(reference_checkpoint, bundle)
    return bundle


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a bundle with a plan, to change."""
    copied = shutil.copytree(pristine, tmp_path / "bundle")
    yield copied
    shutil.rmtree(copied, ignore_errors=True)


def assert_whole(bundle: Path) -> Plan:
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    listed = sorted([*manifest.files, "manifest.json"])
    assert listed == sorted(file.name for file in bundle.iterdir())
    return plan_of(manifest)


def test_bundle_holds_graph_and_plan(bundle: Path) -> None:
    plan = assert_whole(bundle)
    assert plan.sizes == list(THREE_SIZES)
    assert (plan.library, plan.library_version) == ("tensorrt_rtx", tensorrt_rtx.__version__)
    manifest = read_manifest(bundle)
    assert (manifest.encoder.backend, manifest.encoder.precision) == ("tensorrt", "fp16")
    assert manifest.parity.runtime == "onnxruntime"
    assert (bundle / plan.file).stat().st_size > (bundle / "encoder.onnx.data").stat().st_size


def test_bf16_is_compared_in_pytorch_and_compiled(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    built(reference_checkpoint, tmp_path / "bundle", "bf16")
    assert_whole(tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.parity.runtime == "pytorch"
    assert 0.999 < manifest.parity.cosine_min < 0.99999


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_norms_and_residual_stream_stay_in_fp32(
    reference_checkpoint: Checkpoint, tmp_path: Path, name: Precision
) -> None:
    model, _ = reference_checkpoint.load_model()
    export_onnx(EncoderGraph(model, RECIPES[name].dtype), tmp_path)
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / GRAPH_FILE)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    norms = [node for node in graph.node if node.op_type == "RMSNormalization"]
    assert norms
    assert {types[node.input[0]] for node in norms} == {onnx.TensorProto.FLOAT}
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    half = onnx.TensorProto.FLOAT16 if name == "fp16" else onnx.TensorProto.BFLOAT16
    assert {types[node.input[0]] for node in attentions} == {half}


def test_every_operator_of_the_graph_is_in_what_was_compiled(bundle: Path) -> None:
    graph = onnx.load(bundle / GRAPH_FILE, load_external_data=False).graph
    operators = {node.op_type for node in graph.node}
    assert operators >= FUSED
    assert_whole(bundle)


def test_catalogue_change_keeps_the_plan(
    reference_checkpoint: Checkpoint, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = assert_whole(bundle)

    def never(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(export_plan, "compile_plan", never)
    shorter = replace(
        reference_checkpoint,
        catalogue=reference_checkpoint.catalogue[:399],
        item_table=reference_checkpoint.item_table[:399],
        histories=[
            (rows, times) for rows, times in reference_checkpoint.histories if max(rows) < 399
        ],
    )
    assert built(shorter, bundle) == before
    assert_whole(bundle)
    assert read_manifest(bundle).num_items == 399


def test_library_is_told_the_targets_and_the_sizes() -> None:
    library = load_library("tensorrt_rtx")
    builder = tensorrt_rtx.Builder(make_logger(library, print))
    config = builder.create_builder_config()
    configure(library, config, [])
    assert config.num_compute_capabilities == 0
    assert config.get_flag(tensorrt_rtx.BuilderFlag.REQUIRE_USER_ALLOCATION)
    configure(library, config, ["8.6", "12.0"])
    capabilities = tensorrt_rtx.ComputeCapability
    told = [config.get_compute_capability(index) for index in range(2)]
    assert (config.num_compute_capabilities, told) == (2, [capabilities.SM86, capabilities.SM120])
    profile = make_profile(builder, Size(8, 384))
    for name in ("input_ids", "slot_ids"):
        assert [tuple(shape) for shape in profile.get_shape(name)] == [(1, 1), (8, 384), (8, 384)]
    smallest, _, largest = profile.get_shape("item_table")
    assert (tuple(smallest), tuple(largest)) == ((1, 64), (MAX_ITEMS, 64))


def test_damaged_plan_is_not_taken_over(reference_checkpoint: Checkpoint, bundle: Path) -> None:
    plan = assert_whole(bundle)
    compiled = (bundle / plan.file).read_bytes()
    (bundle / plan.file).write_bytes(compiled[:-1] + b"?")
    built(reference_checkpoint, bundle)
    assert_whole(bundle)


def test_plan_is_compiled_anew_for_another_target(bundle: Path) -> None:
    before = assert_whole(bundle)
    rebuild_plan(bundle, ["8.6", "12.0"], quiet)
    after = assert_whole(bundle)
    assert after.compute_capabilities == ["8.6", "12.0"]
    assert after.file != before.file


def test_rebuilding_mends_a_damaged_plan(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = assert_whole(bundle)
    (bundle / plan.file).write_bytes(b"")
    with pytest.raises(BundleError, match=f"{plan.file} has 0 bytes"):
        assert_whole(bundle)
    assert main(["rebuild", str(bundle)]) == 0
    assert capsys.readouterr().out.startswith(f"plan       {plan.file}, by tensorrt_rtx ")
    assert assert_whole(bundle) == plan


def test_rebuilding_refuses_a_damaged_graph(bundle: Path) -> None:
    (bundle / GRAPH_FILE).write_bytes(b"")
    with pytest.raises(BundleError, match=GRAPH_FILE):
        rebuild_plan(bundle, [], quiet)


def test_interrupted_rebuilding_leaves_the_old_plan(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = assert_whole(bundle)

    def disk_is_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(PlanError, match=r"cannot write .*: No space left on device; free some"):
        rebuild_plan(bundle, ["8.6"], quiet)
    assert assert_whole(bundle) == before


def test_bundle_without_a_plan_has_none_to_rebuild(
    reference_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rebuild", str(reference_bundle)]) == 1
    assert "runs on onnxruntime, which needs no plan" in capsys.readouterr().err


def test_unknown_target_is_refused_with_the_known_ones(bundle: Path) -> None:
    before = assert_whole(bundle)
    with pytest.raises(PlanError, match=r"capability 9\.0; it knows 7\.5, 8\.0"):
        rebuild_plan(bundle, ["9.0"], quiet)
    assert assert_whole(bundle) == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (BuildOptions("tensorrt", "fp32"), "takes --precision fp16 or bf16 or fp8, not fp32"),
        (
            BuildOptions("onnxruntime", "fp16"),
            "onnxruntime takes --precision fp32 or int16, not fp16",
        ),
        (
            BuildOptions("tensorrt", "fp16", PlanOptions(sizes=[Size(4, 512)])),
            "add --size 1x1024",
        ),
    ],
)
def test_build_that_cannot_be_served_is_refused_at_once(
    reference_checkpoint: Checkpoint, tmp_path: Path, settings: BuildOptions, problem: str
) -> None:
    with pytest.raises(BuildError, match=problem):
        build(reference_checkpoint, tmp_path / "bundle", settings, NO_BARS)
    assert list(tmp_path.iterdir()) == []


def test_graph_that_the_library_refuses_is_an_error_with_its_words(
    bundle: Path, tmp_path: Path
) -> None:
    plan = assert_whole(bundle)
    (tmp_path / GRAPH_FILE).write_bytes(b"no graph")
    with pytest.raises(PlanError, match=f"tensorrt_rtx could not read {GRAPH_FILE}: .*parse"):
        compile_plan(load_library("tensorrt_rtx"), tmp_path / GRAPH_FILE, plan, io.BytesIO(), quiet)


def test_full_disk_is_the_error_of_the_disk(bundle: Path) -> None:
    plan = assert_whole(bundle)
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OSError, match="No space left on device"),
    ):
        compile_plan(load_library("tensorrt_rtx"), bundle / GRAPH_FILE, plan, full, quiet)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_machine_without_a_gpu_is_told_so(bundle: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"no GPU can be used.*--backend onnxruntime"):
        Recommender.open(bundle)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu_gives_the_answers_of_the_cpu(
    reference_checkpoint: Checkpoint, recommender: Recommender, tmp_path: Path
) -> None:
    target = ".".join(str(part) for part in torch.cuda.get_device_capability())
    targets = PlanOptions(targets=[target], sizes=THREE_SIZES)
    build(
        reference_checkpoint,
        tmp_path / "bundle",
        BuildOptions("tensorrt", "fp16", targets),
        NO_BARS,
    )
    ids = recommender.item_ids
    histories = [
        [Interaction(ids[row], time_ms) for row, time_ms in zip(*history, strict=True)]
        for history in reference_checkpoint.histories
    ]
    requests = [RecommendRequest(history, k=10) for history in histories]
    with closing(Recommender.open(tmp_path / "bundle")) as on_gpu:
        found, expected = on_gpu.encode_users(histories), recommender.encode_users(histories)
        together, alone = on_gpu.recommend(requests), [on_gpu.recommend([r])[0] for r in requests]
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (np.einsum("ud,ud->u", found, expected) / lengths).min() > 0.999
    for others in (alone, recommender.recommend(requests)):
        shared = [
            len({item.item_id for item in one.items} & {item.item_id for item in other.items})
            for one, other in zip(together, others, strict=True)
        ]
        assert np.mean(shared) >= 9.8


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_smollm2_compiles_for_three_sizes(precision: Precision, tmp_path: Path) -> None:
    decoder, _ = llm.load(llm.locate(SMOLLM2), torch.float32)
    model = LLMSRec(decoder, Heads(decoder.config.hidden_size), torch.zeros(3, 64)).eval()
    export_onnx(EncoderGraph(model, RECIPES[precision].dtype), tmp_path)
    del decoder, model
    library = load_library("tensorrt_rtx")
    plan = Plan(
        graph_sha256="",
        library="tensorrt_rtx",
        library_version=library.version,
        compute_capabilities=[],
        sizes=list(THREE_SIZES),
    )
    steps = []
    path = tmp_path / plan.file
    with path.open("wb") as file:
        compile_plan(library, tmp_path / GRAPH_FILE, plan, file, lambda *step: steps.append(step))
    assert path.stat().st_size > 250e6
    assert [num_done for _, num_done, _ in steps] == sorted(num_done for _, num_done, _ in steps)
