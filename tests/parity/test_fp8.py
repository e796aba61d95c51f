"""The reference model in fp8: what ONNX Runtime measures, what TensorRT-RTX compiles of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from support.plans import plan_of
from torch import Tensor, nn

from engine.bundle.manifest import GRAPH_FILE, WEIGHTS_FILE, read_manifest, verify_files
from engine.encoders.graph_inputs import pack
from engine.errors import PlanError
from engine.query import Prompt
from engine.sizes import Size
from export.build import BuildOptions, build
from export.calibration import Calibration
from export.encoder_graph import EncoderGraph
from export.errors import BuildError
from export.fp8 import calibrate, use_fp8
from export.onnx_export import export_onnx
from export.parity import Bars
from export.plan import PlanOptions
from export.recipes import RECIPES
from export.torch_encoder import TorchEncoder
from llmsrec.checkpoint import Checkpoint
from llmsrec.tokens import PromptTokenizer, PromptWriter

THREE_SIZES = (Size(1, 384), Size(8, 384), Size(2, 1024))
NUM_PROJECTIONS = 7
IN_LAYERS = re.compile(rb"/(q|k|v|o|gate|up|down)_proj")
NUM_SEEN = 4
NO_BARS = Progress(disable=True)


@pytest.fixture(scope="module")
def prompts(reference_checkpoint: Checkpoint) -> list[Prompt]:
    _, tokenizer = reference_checkpoint.load_model()
    writer = PromptWriter(PromptTokenizer(tokenizer), reference_checkpoint.titles)
    return [Prompt(*writer.user(*history)) for history in reference_checkpoint.histories]


@pytest.fixture
def graph(reference_checkpoint: Checkpoint) -> EncoderGraph:
    model, _ = reference_checkpoint.load_model()
    return EncoderGraph(model, torch.float16)


@pytest.fixture
def half(graph: EncoderGraph, tmp_path: Path) -> Path:
    """The folder of a graph that is about to be rewritten."""
    export_onnx(graph, tmp_path)
    return tmp_path


def projections(graph: EncoderGraph) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in graph.model.llm.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def largest_inputs(graph: EncoderGraph, seen: Sequence[Prompt]) -> dict[str, float]:
    """Watch what each projection reads, one prompt at a time."""
    largest: dict[str, float] = {}

    def watch(name: str, x: Tensor) -> None:
        largest[name] = max(largest.get(name, 0), x.abs().max().item())

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, *inputs))
        for name, module in projections(graph)
    ]
    for prompt in seen:
        TorchEncoder(graph).encode([prompt], Size(1, len(prompt)), "user_vector")
    for hook in hooks:
        hook.remove()
    return largest


def round_trip(x: Tensor, scale: Tensor) -> Tensor:
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def project(module: nn.Linear, x: Tensor, largest: float) -> Tensor:
    """Compute a projection of the fp16 graph with values that went through e4m3."""
    scales = module.weight.float().abs().amax(dim=1, keepdim=True) / 448  # [N, 1]
    weight = round_trip(module.weight, scales)
    return (round_trip(x, torch.tensor(largest) / 448) @ weight.T).half()


def run(
    folder: Path, prompts: Sequence[Prompt], table: NDArray[np.float32], names: Sequence[str]
) -> dict[str, NDArray[np.float16]]:
    """Give values from within a graph."""
    model = onnx.load(folder / GRAPH_FILE)
    values = [onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names)]
    model.graph.output.extend(values)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    size = Size(len(prompts), max(len(prompt) for prompt in prompts))
    found = session.run(names, {**pack(prompts, size)._asdict(), "item_table": table})
    return dict(zip(names, found, strict=True))


def test_calibration_finds_the_largest_inputs(
    reference_checkpoint: Checkpoint, graph: EncoderGraph, half: Path, prompts: list[Prompt]
) -> None:
    before = {file.name for file in half.iterdir()}
    found = calibrate(
        half, Calibration(prompts[:NUM_SEEN], reference_checkpoint.item_table.numpy())
    )
    expected = largest_inputs(graph, prompts[:NUM_SEEN])
    assert {file.name for file in half.iterdir()} == before
    # Queries, keys and values read one tensor, as do gate and up; the last layer's query reads
    # the readout alone.
    assert len(found) == 4 * graph.config.num_hidden_layers + 1
    np.testing.assert_allclose(sorted(found.values()), sorted(set(expected.values())), rtol=3e-3)


def test_padding_widens_no_scale(
    reference_checkpoint: Checkpoint, half: Path, prompts: list[Prompt]
) -> None:
    table = reference_checkpoint.item_table.numpy()
    ends = [
        Prompt(prompt.token_ids[-length:], prompt.slot_ids[-length:])
        for prompt, length in zip(prompts, (1, 3), strict=False)
    ]
    together = calibrate(half, Calibration(ends, table))
    alone = [calibrate(half, Calibration([prompt], table)) for prompt in ends]
    assert together == {name: max(each[name] for each in alone) for name in together}


def test_every_projection_gives_what_pytorch_gives_with_rounded_values(
    reference_checkpoint: Checkpoint, graph: EncoderGraph, half: Path, prompts: list[Prompt]
) -> None:
    before = onnx.load(half / GRAPH_FILE, load_external_data=False).graph
    num_bytes = (half / WEIGHTS_FILE).stat().st_size
    table = reference_checkpoint.item_table.numpy()
    seen, others = prompts[:NUM_SEEN], prompts[NUM_SEEN:]
    largest = calibrate(half, Calibration(seen, table))
    use_fp8(half, Calibration(seen, table))
    assert (half / WEIGHTS_FILE).stat().st_size < num_bytes

    products = [node for node in before.node if "_proj" in node.name and node.input[0] in largest]
    modules = dict(projections(graph))
    assert len(products) == len(modules) == NUM_PROJECTIONS * graph.config.num_hidden_layers
    names = [name for node in products for name in (node.input[0], node.output[0])]
    # ONNX Runtime leaves out a cast to fp16 and back, unless what lies between is asked for.
    names += [f"{source}.wide" for source in largest]
    found = {name: torch.tensor(value) for name, value in run(half, others, table, names).items()}
    for node, module in zip(products, modules.values(), strict=True):
        source, output = node.input[0], node.output[0]
        expected = project(module, found[source], largest[source])
        torch.testing.assert_close(found[output], expected, rtol=1e-3, atol=1e-3)
        exact = module(found[source])
        assert (found[output] - exact).norm() > 0.01 * exact.norm()


def test_a_build_below_the_bars_is_refused_with_its_figures(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=r"fp8 engine differs too much .* user vectors 0\.9\d+ <"):
        build(reference_checkpoint, tmp_path / "bundle", BuildOptions("tensorrt", "fp8"), NO_BARS)
    assert list(tmp_path.iterdir()) == []


def types_of_products(plan: bytes) -> dict[bytes, tuple[bytes, ...]]:
    """Read from a plan, by each product's name, the types of what it multiplies and gives."""
    types = dict(re.findall(rb'tensor=\{[^\n]* name="([^"]+)"[^\n]* type=(\w+)', plan))
    product = (
        rb'fully_connected=\{ name="([^"]+)" output=\{"([^"]+)" \} input=\{"([^"]+)" "([^"]+)"'
    )
    return {
        name: (types[first], types[second], types[output])
        for name, output, first, second in re.findall(product, plan)
    }


@pytest.mark.tensorrt
def test_tensorrt_multiplies_fp8_and_scales_in_fp32(
    reference_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    lower = replace(RECIPES["fp8"], bars=Bars(min_cosine=0.9, min_overlap=0.5))
    monkeypatch.setitem(RECIPES, "fp8", lower)
    bundle = tmp_path / "bundle"
    settings = PlanOptions(targets=["8.9"], sizes=THREE_SIZES)
    manifest = build(
        reference_checkpoint, bundle, BuildOptions("tensorrt", "fp8", settings), NO_BARS
    )
    verify_files(bundle, read_manifest(bundle))
    assert (manifest.encoder.precision, manifest.parity.runtime) == ("fp8", "onnxruntime")
    plan = plan_of(manifest)
    assert plan.compute_capabilities == ["8.9"]
    found = types_of_products((bundle / plan.file).read_bytes())
    in_layers = [types for name, types in found.items() if IN_LAYERS.search(name)]
    assert len(in_layers) >= len(THREE_SIZES)
    assert set(in_layers) == {(b"fp8_e4m3", b"fp8_e4m3", b"float")}


@pytest.mark.tensorrt
def test_target_without_fp8_is_refused_at_once(
    reference_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    settings = BuildOptions("tensorrt", "fp8", PlanOptions(targets=["8.6", "8.9"]))
    with pytest.raises(
        PlanError, match=r"8\.6 has no fp8, .* give --target 8\.9 or 12\.0 or 12\.1"
    ):
        build(reference_checkpoint, tmp_path / "bundle", settings, NO_BARS)
    assert list(tmp_path.iterdir()) == []
