"""Turns a checkpoint into a bundle: export, vectors, fragments, parity, manifest.

Everything is written into a folder beside the output, which is renamed once all of it is there.
The item vectors are those of PyTorch in fp32, whatever the precision of the encoder.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.progress import Progress, TaskID
from safetensors.numpy import save

from engine.bundle.manifest import (
    ENCODER_KINDS,
    MANIFEST_FILE,
    Backend,
    Manifest,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    ParityReport,
    ParityRuntime,
    Plan,
    Precision,
    TensorRT,
    describe_file,
    write_manifest,
)
from engine.bundle.opened import CATALOGUE_FILE, FRAGMENTS_FILE, ITEMS_FILE, TOKENIZER_FILE
from engine.config import EncoderConfig
from engine.encoders.cpu import CpuEncoder
from engine.encoders.encoder import Encoder, Tower
from engine.prompts.fragments import Fragments
from engine.prompts.join import join
from engine.query import Prompt
from engine.request import Interaction
from engine.sizes import SizeLimits, sizes_within
from engine.upkeep.check import PROBES_FILE, Probe
from export import parity
from export.calibration import Calibration
from export.encoder_graph import EncoderGraph
from export.errors import BuildError
from export.fragments import build_fragments
from export.onnx_export import export_onnx
from export.plan import (
    PlanOptions,
    add_plan,
    measure_sizes,
    require_longest_fits,
    require_plan_can_be_made,
)
from export.recipes import RECIPES, precisions_of
from export.torch_encoder import TorchEncoder
from llmsrec.catalogue import write_catalogue
from llmsrec.checkpoint import Checkpoint
from llmsrec.encoding import encode_items, encode_users
from llmsrec.files import replaced_whole
from llmsrec.model import VECTOR_DIM
from llmsrec.tokens import PromptTokenizer, PromptWriter

NUM_PROBES = 8
NUM_CALIBRATION_PROMPTS = 32
"""Prompts of each tower that a precision is calibrated on; they are among those compared."""
_PACKAGES = ("torch", "transformers", "optimum-onnx", "onnx")

DEFAULT_PLAN = PlanOptions()


@dataclass(frozen=True)
class BuildOptions:
    backend: Backend = "onnxruntime"
    precision: Precision = "fp32"
    plan: PlanOptions = DEFAULT_PLAN


@dataclass(frozen=True)
class Compared:
    """What stands in a bundle once its graph has been compared with PyTorch."""

    fragments: Fragments
    prompt_lengths: Sequence[int]
    user_vectors: NDArray[np.float32]  # [U, D], of the graph
    item_vectors: NDArray[np.float32]  # [N, D], of PyTorch in fp32
    report: ParityReport


def build(checkpoint: Checkpoint, output: Path, options: BuildOptions, bars: Progress) -> Manifest:
    """Build and check a bundle at `output`, replacing an older one there.

    Raises:
        BuildError: the result is below the quality bars, `output` is something else, or the
            backend does not run the precision.
        BackendUnavailable: TensorRT is asked for and missing.
        PlanError: TensorRT refuses the graph, or a target has no fp8.
    """
    able = precisions_of(options.backend)
    if options.precision not in able:
        raise BuildError(
            f"{options.backend} takes --precision {' or '.join(able)}, not {options.precision}"
        )
    if output.exists() and not (output / MANIFEST_FILE).is_file():
        raise BuildError(f"{output} exists and is no bundle; remove it or name another --output")
    if not checkpoint.histories:
        raise BuildError(
            "the checkpoint holds no histories to compare the engine with PyTorch on; copy or"
            " import it again, with its histories"
        )
    require_longest_fits(options.plan)
    if options.backend == "tensorrt":
        require_plan_can_be_made(options.plan)
    if (choose_targets := RECIPES[options.precision].choose_targets) is not None:
        options = replace(options, plan=choose_targets(options.plan))
    with replaced_whole(output) as aside:
        steps = bars.add_task("loading the LLM", total=6)
        compared = _export(aside, checkpoint, options.precision, bars, steps)
        plan = None
        if options.backend == "tensorrt":
            bars.update(steps, description="compiling with TensorRT")
            plan = add_plan(aside, output, options.plan, compared.prompt_lengths, bars)
        bars.update(steps, advance=1, description="writing the bundle")
        _write_items(aside, checkpoint, compared)
        return _write_manifest(aside, checkpoint, options, compared, plan)


def _export(
    folder: Path, checkpoint: Checkpoint, precision: Precision, bars: Progress, steps: TaskID
) -> Compared:
    """Write graph, weights and tokenizer, and require parity; the model is let go of after it."""
    recipe = RECIPES[precision]
    model, tokenizer = checkpoint.load_model()
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    bars.update(steps, advance=1, description="tokenising titles")
    prompts = PromptTokenizer(tokenizer)
    writer = PromptWriter(prompts, checkpoint.titles)
    fragments = build_fragments(prompts, checkpoint.titles, bars)
    bars.update(steps, advance=1, description="encoding with PyTorch")
    expected_users = encode_users(model, writer, checkpoint.histories, bars)
    expected_items = encode_items(model, writer, len(checkpoint.catalogue), bars)
    bars.update(steps, advance=1, description="exporting to ONNX")
    graph = EncoderGraph(model, recipe.dtype)
    export_onnx(graph, folder)
    user_prompts = [join(fragments, rows, times)[0] for rows, times in checkpoint.histories]
    item_prompts = [Prompt(*writer.item(row)) for row in range(len(checkpoint.catalogue))]
    if recipe.rewrite is not None:
        bars.update(steps, description="rewriting the graph")
        towers = (user_prompts, item_prompts)
        seen = [prompt for prompts in towers for prompt in prompts[:NUM_CALIBRATION_PROMPTS]]
        recipe.rewrite(folder, Calibration(seen, checkpoint.item_table.numpy()))
    bars.update(steps, advance=1, description="encoding with the engine")
    runtime, item_table = recipe.parity_runtime, checkpoint.item_table.numpy()
    with closing(_make_encoder(folder, graph, runtime, item_table)) as encoder:
        users = _encode_all(encoder, user_prompts, "user_vector", bars)
        items = _encode_all(encoder, item_prompts, "item_vector", bars)
    report = parity.compare(users, items, expected_users, expected_items, runtime)
    parity.require(report, recipe.bars, precision)
    bars.advance(steps)
    lengths = [len(prompt) for prompt in user_prompts]
    return Compared(fragments, lengths, users, expected_items, report)


def _write_items(folder: Path, checkpoint: Checkpoint, compared: Compared) -> None:
    table = checkpoint.item_table.numpy()
    items = {"item_table": table, "item_vectors": compared.item_vectors}
    (folder / ITEMS_FILE).write_bytes(save(items))
    (folder / FRAGMENTS_FILE).write_bytes(save(compared.fragments.to_arrays()))
    probes = _probes(checkpoint, compared.user_vectors)
    (folder / PROBES_FILE).write_bytes(msgspec.json.encode(probes))
    write_catalogue(folder / CATALOGUE_FILE, checkpoint.catalogue)


def _make_encoder(
    folder: Path, graph: EncoderGraph, runtime: ParityRuntime, item_table: NDArray[np.float32]
) -> Encoder:
    if runtime == "pytorch":
        return TorchEncoder(graph)
    return CpuEncoder(folder, item_table, EncoderConfig())


def _encode_all(
    encoder: Encoder, prompts: list[Prompt], tower: Tower, bars: Progress
) -> NDArray[np.float32]:
    vectors = np.empty((len(prompts), VECTOR_DIM), np.float32)
    task = bars.add_task(f"{tower.replace('_', ' ')}s (engine)", total=len(prompts))
    for members, size in SizeLimits().split([len(prompt) for prompt in prompts]):
        batch = [prompts[index] for index in members]
        vectors[members] = encoder.encode(batch, size, tower)
        bars.advance(task, len(members))
    bars.remove_task(task)
    return vectors


def _probes(checkpoint: Checkpoint, user_vectors: NDArray[np.float32]) -> list[Probe]:
    ids = [item.id for item in checkpoint.catalogue]
    histories = checkpoint.histories[:NUM_PROBES]
    return [
        Probe(
            [Interaction(ids[row], time_ms) for row, time_ms in zip(rows, times, strict=True)],
            vector.tolist(),
        )
        for (rows, times), vector in zip(histories, user_vectors, strict=False)
    ]


def _write_manifest(
    folder: Path,
    checkpoint: Checkpoint,
    options: BuildOptions,
    compared: Compared,
    plan: Plan | None,
) -> Manifest:
    catalogue_files = (folder / CATALOGUE_FILE, folder / ITEMS_FILE)
    unsealed = Manifest(
        release=version("llmsrec-engine"),
        built_with={name: version(name) for name in _PACKAGES}
        | {"onnxruntime": onnxruntime.__version__},
        model_version=f"{checkpoint.config.model_version}-{checkpoint.digest()[:8]}",
        catalogue_version="-".join(describe_file(file).sha256[:6] for file in catalogue_files),
        encoder=_describe_encoder(options, compared, plan),
        num_items=len(checkpoint.catalogue),
        vector_dim=VECTOR_DIM,
        parity=compared.report,
        min_probe_cosine=RECIPES[options.precision].min_probe_cosine,
        files={file.name: describe_file(file) for file in sorted(folder.iterdir())},
    )
    manifest = write_manifest(folder / MANIFEST_FILE, unsealed)
    for file in folder.iterdir():
        file.chmod(0o644)
    return manifest


def _describe_encoder(
    options: BuildOptions, compared: Compared, plan: Plan | None
) -> OnnxRuntimeCpu | OnnxRuntimeCuda | TensorRT:
    fields: dict[str, object] = {"backend": options.backend, "precision": options.precision}
    if options.backend == "onnxruntime-cuda":
        largest = options.plan.sizes or measure_sizes(compared.prompt_lengths)
        fields["sizes"] = sizes_within(largest)
    if plan is not None:
        fields["plan"] = plan
    return msgspec.convert(fields, ENCODER_KINDS[options.backend])
