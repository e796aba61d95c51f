"""Turns a checkpoint into a bundle: export, vectors, fragments, parity, manifest.

Everything is written into a folder beside the output, which is renamed once all of it is there.
"""

from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from safetensors.numpy import save

from engine.backends import Encoder, Tower
from engine.backends.onnxruntime import OnnxRuntimeEncoder
from engine.bundle import CATALOGUE_FILE, FRAGMENTS_FILE, ITEMS_FILE, TOKENIZER_FILE
from engine.check import PROBES_FILE, Probe
from engine.config import BatcherConfig, EncoderConfig
from engine.fragments import Fragments
from engine.manifest import (
    MANIFEST_FILE,
    Manifest,
    ParityReport,
    Precision,
    describe_file,
    seal,
)
from engine.micro_batch import split
from engine.prompt_tokens import render
from engine.request import Interaction, Prompt
from export import parity
from export.encoder_graph import EncoderGraph
from export.errors import BuildError
from export.fragments import build_fragments
from export.onnx_export import export_onnx
from llmsrec.catalogue import write_catalogue
from llmsrec.checkpoint import Checkpoint
from llmsrec.encoding import encode_items, encode_users
from llmsrec.files import replaced_whole
from llmsrec.model import VECTOR_DIM
from llmsrec.prompt import MAX_PROMPT_TOKENS
from llmsrec.tokens import PromptTokenizer, PromptWriter

NUM_PROBES = 8
_PACKAGES = ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Vectors:
    users: NDArray[np.float32]  # [U, D]
    items: NDArray[np.float32]  # [N, D]


def build(checkpoint: Checkpoint, output: Path, precision: Precision, bars: Progress) -> Manifest:
    """Build and check a bundle at `output`, replacing an older one there.

    Raises:
        BuildError: the result is below the quality bars, or `output` is something else.
    """
    if output.exists() and not (output / MANIFEST_FILE).is_file():
        raise BuildError(f"{output} exists and is no bundle; remove it or name another --output")
    if not checkpoint.histories:
        raise BuildError(
            "the checkpoint holds no histories to compare the engine with PyTorch on; copy or"
            " import it again, with its histories"
        )
    with replaced_whole(output) as aside:
        return _build_into(aside, checkpoint, precision, bars)


def _build_into(
    folder: Path, checkpoint: Checkpoint, precision: Precision, bars: Progress
) -> Manifest:
    steps = bars.add_task("loading the LLM", total=5)
    model, tokenizer = checkpoint.load_model()
    bars.update(steps, advance=1, description="exporting to ONNX")
    export_onnx(EncoderGraph(model), folder)
    bars.update(steps, advance=1, description="tokenising titles")
    prompts = PromptTokenizer(tokenizer)
    writer = PromptWriter(prompts, checkpoint.titles)
    fragments = build_fragments(prompts, checkpoint.titles, bars)
    bars.update(steps, advance=1, description="encoding with the engine")
    table = checkpoint.item_table.numpy()
    with closing(OnnxRuntimeEncoder(folder, table, EncoderConfig())) as encoder:
        vectors = _encode(encoder, writer, fragments, checkpoint, bars)
    bars.update(steps, advance=1, description="encoding with PyTorch")
    expected = Vectors(
        encode_users(model, writer, checkpoint.histories, bars),
        encode_items(model, writer, len(table), bars),
    )
    report = parity.compare(vectors.users, vectors.items, expected.users, expected.items)
    parity.require(report, precision)
    bars.update(steps, advance=1, description="writing the bundle")
    items = {"item_table": table, "item_vectors": vectors.items}
    (folder / ITEMS_FILE).write_bytes(save(items))
    (folder / FRAGMENTS_FILE).write_bytes(save(fragments.to_arrays()))
    probes = _probes(checkpoint, vectors.users)
    (folder / PROBES_FILE).write_bytes(msgspec.json.encode(probes))
    write_catalogue(folder / CATALOGUE_FILE, checkpoint.catalogue)
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return _write_manifest(folder, checkpoint, precision, report)


def _encode(
    encoder: Encoder,
    writer: PromptWriter,
    fragments: Fragments,
    checkpoint: Checkpoint,
    bars: Progress,
) -> Vectors:
    users = [render(fragments, rows, times)[0] for rows, times in checkpoint.histories]
    items = [Prompt(*writer.item(row)) for row in range(len(checkpoint.catalogue))]
    return Vectors(
        _encode_all(encoder, users, "user_vector", bars),
        _encode_all(encoder, items, "item_vector", bars),
    )


def _encode_all(
    encoder: Encoder, prompts: list[Prompt], tower: Tower, bars: Progress
) -> NDArray[np.float32]:
    vectors = np.empty((len(prompts), VECTOR_DIM), np.float32)
    task = bars.add_task(f"{tower.replace('_', ' ')}s (engine)", total=len(prompts))
    for batch in split([len(prompt) for prompt in prompts], BatcherConfig()):
        vectors[batch] = encoder.encode([prompts[index] for index in batch], tower)
        bars.advance(task, len(batch))
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
    folder: Path, checkpoint: Checkpoint, precision: Precision, report: ParityReport
) -> Manifest:
    catalogue_files = (folder / CATALOGUE_FILE, folder / ITEMS_FILE)
    unsealed = Manifest(
        model_version=f"{checkpoint.config.model_version}-{checkpoint.digest()[:8]}",
        catalogue_version="-".join(describe_file(file).sha256[:6] for file in catalogue_files),
        backend="onnxruntime",
        precision=precision,
        num_items=len(checkpoint.catalogue),
        vector_dim=VECTOR_DIM,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        built_with={name: version(name) for name in _PACKAGES},
        parity=report,
        files={file.name: describe_file(file) for file in sorted(folder.iterdir())},
    )
    manifest = seal(unsealed)
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST_FILE).write_bytes(content + b"\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    return manifest
