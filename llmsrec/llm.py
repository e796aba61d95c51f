"""Where a checkpoint's LLM is, and how its base model and tokenizer are loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

from llmsrec import packages
from llmsrec.errors import CheckpointError
from llmsrec.llm_folder import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    LLMFolder,
    digest_of,
    read_folder,
)
from llmsrec.llm_tokenizer import read_folder_tokenizer, read_gguf_tokenizer, require_followed
from llmsrec.llm_weights import require_finite, require_fitting, require_loaded, tied_head
from llmsrec.served import require_served
from llmsrec.settings import SMOLLM2

_PACKAGES = {SMOLLM2: packages.SMOLLM2}


class LLMSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A folder as `transformers` saves it, or a GGUF file inside a package."""

    sha256: str
    path: str | None = None
    package: packages.PackageFile | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.package is None):
            raise ValueError("name the LLM by 'path' or by 'package'")
        if self.path is not None and not Path(self.path).is_absolute():
            raise ValueError(f"'path' is {self.path!r}; write the LLM's folder from the root on")
        if self.package is not None and self.package not in _PACKAGES.values():
            raise ValueError(f"'package' is none of those that are served: {', '.join(_PACKAGES)}")


class Opened(NamedTuple):
    """An LLM's folder whose files have been found to fit each other."""

    folder: LLMFolder
    config: PretrainedConfig
    tokenizer: Tokenizer


def locate(name: str) -> LLMSource:
    """Describe the LLM that a user names: a folder, or `smollm2-135m` from its package.

    Raises:
        CheckpointError: a folder lacks a file or a tensor, or its LLM is not served.
    """
    if name in _PACKAGES:
        file = packages.fetch(_PACKAGES[name])
        return LLMSource(sha256=digest_of([file]), package=_PACKAGES[name])
    folder = _open(Path(name).resolve()).folder
    return LLMSource(sha256=folder.digest(), path=str(folder.path))


def load(
    source: LLMSource, dtype: torch.dtype, width: int | None = None
) -> tuple[PreTrainedModel, Tokenizer]:
    """Load the decoder without its language-model head, in evaluation mode, and its tokenizer.

    With a `width`, the decoder's has to be that. What headers and settings can tell is checked
    before any weight is loaded.

    Raises:
        CheckpointError: the files are missing, changed, not those of one whole LLM, or of a type
            that is not served.
    """
    if source.package is not None:
        file = _find_package(source, source.package)
        model = _load_weights(file.parent, dtype, gguf_file=file.name)
        require_served(model.config.to_dict())
        _require_width(model.config, width)
        tokenizer = read_gguf_tokenizer(file)
        require_followed(file, tokenizer, model.config.vocab_size)
        return model, tokenizer
    folder, config, tokenizer = _open_unchanged(source)
    _require_width(config, width)
    return _load_weights(folder.path, dtype, key_mapping=tied_head(folder) or None), tokenizer


def load_tokenizer(source: LLMSource) -> Tokenizer:
    """Load only the tokenizer.

    Raises:
        CheckpointError: the files are missing or changed.
    """
    if source.package is not None:
        return read_gguf_tokenizer(_find_package(source, source.package))
    return _open_unchanged(source).tokenizer


def _open(path: Path) -> Opened:
    folder = read_folder(path)
    config = require_fitting(folder)
    tokenizer = read_folder_tokenizer(folder)
    require_followed(path / TOKENIZER, tokenizer, config.vocab_size)
    return Opened(folder, config, tokenizer)


def _open_unchanged(source: LLMSource) -> Opened:
    opened = _open(Path(str(source.path)))
    folder, found = opened.folder, opened.folder.digest()
    if found == source.sha256:
        return opened
    if folder.digest_of_release_0_1() == source.sha256:
        raise CheckpointError(
            f"llm.json: its sha256 is of an earlier release, which left out {TOKENIZER_CONFIG}; if"
            f" that file in {folder.path} is the one of the training, write {found} in its place"
        )
    raise CheckpointError(
        f"{folder.path}: the LLM's SHA-256 is {found}, the checkpoint was trained on"
        f" {source.sha256}; point llm.json at that LLM"
    )


def _find_package(source: LLMSource, package: packages.PackageFile) -> Path:
    file = packages.fetch(package)
    if (found := digest_of([file])) != source.sha256:
        raise CheckpointError(
            f"{file}: the LLM's SHA-256 is {found}, the checkpoint was trained on {source.sha256};"
            " remove that file, so that it is taken out of its package anew, or mend llm.json"
        )
    return file


def _load_weights(
    folder: Path, dtype: torch.dtype, **options: str | dict[str, str] | None
) -> PreTrainedModel:
    with _without_foreign_bars():
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    require_loaded(folder, info)
    require_finite(folder, model)
    return cast("PreTrainedModel", model.eval())


def _require_width(config: PretrainedConfig, width: int | None) -> None:
    if width not in {None, config.hidden_size}:
        raise CheckpointError(
            f"llm.json: the LLM is {config.hidden_size} wide, the heads were trained for {width};"
            " name the LLM that they were trained with"
        )


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
