"""A checkpoint on disk: trained heads, item table, catalogue, and where the LLM is.

config.json              versions, widths, how it was trained and how well it did
heads.safetensors        the projector, both heads, both readout vectors
items.safetensors        item_table [N, 64] float32
llm.json                 a path or a package file, and its SHA-256
catalogue.jsonl          id, title, attributes of each item row
histories.jsonl          some users' newest interactions, on which an export is compared
public.json              in place of both: the public data set that may not be copied
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar, cast, get_args

import msgspec
import numpy as np
import torch
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from tokenizers import Tokenizer
from torch import Tensor

from llmsrec import llm
from llmsrec.catalogue import CatalogueItem, read_catalogue, write_catalogue
from llmsrec.dataset import Dataset
from llmsrec.encoding import NUM_HISTORIES, History, as_history
from llmsrec.errors import CheckpointError, DataError
from llmsrec.files import replaced_whole
from llmsrec.model import COLLABORATIVE_DIM, Heads, LLMSRec
from llmsrec.movielens import MovieLensName, load_movielens
from llmsrec.prompt import MAX_INTERACTIONS, SEGMENTS_TEMPLATE_VERSION, TEMPLATE_VERSION
from llmsrec.segments.model import SegmentsModel
from llmsrec.segments.titles import Titles, read_titles, tokenise
from llmsrec.tokens import PromptTokenizer

SCHEMA_VERSION = 1
Count = Annotated[int, msgspec.Meta(ge=1)]
T = TypeVar("T")

_HEADS = "heads.safetensors"
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)


class SegmentsShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the LLM and of a history a checkpoint over item segments reads."""

    num_layers: Count
    window: Count


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    model_version: str
    template_version: int = TEMPLATE_VERSION
    segments: SegmentsShape | None = None
    """Of template 2 alone."""
    llm_dim: Count
    num_items: Count
    training: dict[str, str | int | float] = {}
    metrics: dict[str, dict[str, float]] = {}


class PublicSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set whose catalogue and histories stay where they come from."""

    dataset: MovieLensName
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    config: CheckpointConfig
    heads: Heads
    item_table: Tensor  # [N, 64] float32
    catalogue: Sequence[CatalogueItem]
    histories: Sequence[History]
    llm_source: llm.LLMSource
    public_source: PublicSource | None = None
    """Where catalogue and histories stay; the checkpoint then holds no copy of them."""

    @property
    def titles(self) -> list[str]:
        return [item.title for item in self.catalogue]

    def digest(self) -> str:
        """Give the SHA-256 of what decides the vectors, apart from the catalogue."""
        content = hashlib.sha256(self.llm_source.sha256.encode())
        for _, value in sorted(self.heads.state_dict().items()):
            content.update(value.numpy().tobytes())
        return content.hexdigest()

    def require_catalogue_of(self, dataset: Dataset) -> None:
        """Refuse a dataset whose item rows mean other items.

        Raises:
            DataError: its item ids are not those of the checkpoint.
        """
        if [item.id for item in self.catalogue] != [item.id for item in dataset.catalogue]:
            raise DataError("--dataset has another catalogue than the checkpoint; give its own")

    def load_model(self, dtype: torch.dtype = torch.float32) -> tuple[LLMSRec, Tokenizer]:
        """Load the LLM in `dtype` and join it with the heads, in evaluation mode.

        Raises:
            CheckpointError: it is not the LLM of the training, whole and served, or the checkpoint
                is one over item segments.
        """
        if self.config.segments is not None:
            raise CheckpointError(
                f"{self.config.model_version} reads item segments (prompt template"
                f" {SEGMENTS_TEMPLATE_VERSION}), which only `evaluate` takes so far; name a"
                " checkpoint of `train`, `refine` or `import-reference`"
            )
        decoder, tokenizer = llm.load(self.llm_source, dtype, self.config.llm_dim)
        return LLMSRec(decoder, self.heads, self.item_table).eval(), tokenizer

    def load_segments(
        self, dtype: torch.dtype, shape: SegmentsShape, bars: Progress
    ) -> tuple[SegmentsModel, Titles]:
        """Load the LLM's first layers, join them with the heads, and run the titles through them.

        Raises:
            CheckpointError: it is not the LLM of the training, whole and served.
        """
        decoder, tokenizer = llm.load(self.llm_source, dtype, self.config.llm_dim)
        model = SegmentsModel(decoder, shape.num_layers, self.heads, self.item_table).eval()
        ragged = tokenise(PromptTokenizer(tokenizer), self.titles)
        return model, read_titles(model.layers, model.embedding, ragged, bars)


def save(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint, its heads in `dtype`, in place of an older one.

    Raises:
        CheckpointError: `folder` holds something else.
    """
    require_replaceable(folder)
    heads = {name: value.to(dtype) for name, value in checkpoint.heads.state_dict().items()}
    items = {"item_table": checkpoint.item_table.contiguous()}
    with replaced_whole(folder) as aside:
        (aside / _HEADS).write_bytes(save_tensors(heads))
        (aside / "items.safetensors").write_bytes(save_tensors(items))
        if checkpoint.public_source is None:
            write_catalogue(aside / "catalogue.jsonl", checkpoint.catalogue)
            lines = map(msgspec.json.encode, checkpoint.histories)
            (aside / "histories.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        else:
            _write_json(aside / "public.json", checkpoint.public_source)
        _write_json(aside / "llm.json", checkpoint.llm_source)
        _write_json(aside / "config.json", checkpoint.config)


def require_replaceable(folder: Path) -> None:
    """Refuse to write a checkpoint over something else, before any long work.

    Raises:
        CheckpointError: `folder` holds something else.
    """
    is_replaceable = folder.is_dir() and ((folder / _HEADS).is_file() or not any(folder.iterdir()))
    if folder.exists() and not is_replaceable:
        raise CheckpointError(
            f"{folder} exists and is no checkpoint; remove it or name another --output"
        )


def load(folder: Path) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
    """
    config = _read_json(folder / "config.json", CheckpointConfig)
    if config.schema_version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder / 'config.json'}: schema version {config.schema_version}, this release"
            f" reads {SCHEMA_VERSION}; use the release that wrote it"
        )
    template = TEMPLATE_VERSION if config.segments is None else SEGMENTS_TEMPLATE_VERSION
    if config.template_version != template:
        raise CheckpointError(
            f"{folder / 'config.json'}: trained with prompt template {config.template_version},"
            f" this release writes {template}; train again or use the older release"
        )
    heads = Heads(config.llm_dim)
    expected = {name: value.shape for name, value in heads.state_dict().items()}
    heads.load_state_dict(_read_tensors(folder / _HEADS, expected))
    shape = torch.Size([config.num_items, COLLABORATIVE_DIM])
    items = _read_tensors(folder / "items.safetensors", {"item_table": shape})
    window = MAX_INTERACTIONS if config.segments is None else config.segments.window
    public_source, catalogue, histories = _read_data(folder, config.num_items, window)
    if len(catalogue) != config.num_items:
        raise CheckpointError(
            f"{folder}: {len(catalogue)} catalogue items for {config.num_items} rows of the item"
            " table; both must come from the same training"
        )
    return Checkpoint(
        config=config,
        heads=heads,
        item_table=items["item_table"],
        catalogue=catalogue,
        histories=histories,
        llm_source=_read_json(folder / "llm.json", llm.LLMSource),
        public_source=public_source,
    )


def sample_histories(dataset: Dataset, window: int = MAX_INTERACTIONS) -> list[History]:
    """Give the newest interactions of users spread evenly over a data set."""
    num_sampled = min(NUM_HISTORIES, dataset.num_users)
    users = np.linspace(0, dataset.num_users - 1, num_sampled, dtype=np.int64)
    return [as_history(dataset.test_history(user), window) for user in users]


def public_source(dataset: Dataset) -> PublicSource | None:
    """Describe a data set that may be used but not copied; give None for any other."""
    if dataset.name not in get_args(MovieLensName):
        return None
    return PublicSource(dataset=cast("MovieLensName", dataset.name), sha256=dataset.digest())


def _read_data(
    folder: Path, num_items: int, window: int
) -> tuple[PublicSource | None, Sequence[CatalogueItem], Sequence[History]]:
    reference = folder / "public.json"
    if not reference.exists():
        _require(folder / "catalogue.jsonl")
        histories = _read_histories(folder / "histories.jsonl", num_items)
        return None, read_catalogue(folder / "catalogue.jsonl"), histories
    source = _read_json(reference, PublicSource)
    dataset = load_movielens(source.dataset)
    if dataset.digest() != source.sha256:
        raise CheckpointError(
            f"{reference}: {source.dataset} is read differently than when the checkpoint was"
            " trained; use the release that trained it"
        )
    return source, dataset.catalogue, sample_histories(dataset, window)


def _read_histories(path: Path, num_items: int) -> list[History]:
    _require(path)
    decoder = msgspec.json.Decoder(History)
    histories = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows, times = decoder.decode(line)
        except _NOT_JSON as error:
            raise CheckpointError(f"{path}, line {number}: {error}; copy it again") from error
        if len(rows) != len(times) or not all(0 <= row < num_items for row in rows):
            raise CheckpointError(
                f"{path}, line {number}: expected item rows below {num_items}, and as many"
                " timestamps; catalogue and histories must come from the same training"
            )
        histories.append((rows, times))
    return histories


def _require(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} lacks {path.name}; copy the whole checkpoint")


def _read_tensors(path: Path, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    _require(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again") from error
    for name, shape in expected.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape:
            raise CheckpointError(
                f"{path}: {name} is {'missing' if found is None else list(found)},"
                f" expected {list(shape)}; copy all files of one checkpoint"
            )
        if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            raise CheckpointError(
                f"{path}: {name} holds NaN, infinity or no real numbers; copy or train it again"
            )
    return {name: tensors[name].float() for name in expected}


def _read_json(path: Path, kind: type[T]) -> T:
    _require(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except _NOT_JSON as error:
        raise CheckpointError(f"{path}: {error}; copy the checkpoint again") from error


def _write_json(path: Path, value: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
