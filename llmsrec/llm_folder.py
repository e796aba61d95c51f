"""The files of an LLM's folder, as far as they can be read and checked without PyTorch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from llmsrec.errors import CheckpointError
from llmsrec.served import require_decoder

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SAME_IN_OTHER_FORMAT = "consolidated*.safetensors"
"""What Mistral's releases hold beside the files for `transformers`."""
UNQUANTISED = {"F32", "BF16", "F16"}

_LEGACY_TOKENS = ("special_tokens_map.json", "added_tokens.json")
"""Read by `transformers` where tokenizer_config.json does not list the added tokens itself."""
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_QUANTISED_NOTES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")

Json = dict[str, Any]


class Tensor(NamedTuple):
    """What the header of a safetensors file says of a tensor."""

    file: Path
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class LLMFolder:
    """A folder as `transformers` saves it, whose files are all there and can be read."""

    path: Path
    config: Json
    tokenizer_files: Sequence[Path]
    tensors: Mapping[str, Tensor]

    @property
    def weight_files(self) -> list[Path]:
        return sorted({tensor.file for tensor in self.tensors.values()})

    def digest(self) -> str:
        """Give the SHA-256 of all that decides a vector."""
        return digest_of([self.path / CONFIG, *self.tokenizer_files, *self.weight_files])

    def digest_of_release_0_1(self) -> str:
        """Give what 0.1 took for the digest: it left out tokenizer_config.json."""
        return digest_of([self.path / CONFIG, self.path / TOKENIZER, *self.weight_files])


def read_folder(path: Path) -> LLMFolder:
    """Read all but the weights themselves.

    Raises:
        CheckpointError: a file is missing, damaged, quantised, or one too many.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "is not there"
        raise CheckpointError(
            f"{path} {found}; name the LLM's folder, as transformers saves it, or mend 'path' in"
            " llm.json"
        )
    _refuse_adapter(path)
    config: Json = {}
    if (path / CONFIG).is_file():
        config = read_json(path / CONFIG)
        _require_decoder(path / CONFIG, config)
    lacking = [
        name for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG) if not (path / name).is_file()
    ]
    if not any(path.glob("*.safetensors")) and not (path / INDEX).is_file():
        lacking.append("*.safetensors")
    if lacking:
        raise CheckpointError(
            f"the LLM folder {path} lacks {', '.join(lacking)}; save it with transformers"
            " (safetensors and a fast tokenizer), or mend 'path' in llm.json"
        )
    _refuse_quantised(path, config)
    return LLMFolder(path, config, _tokenizer_files(path), _read_headers(_weight_files(path)))


def read_json(path: Path) -> Json:
    """Read an object as `transformers` does, which takes NaN and any integer."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; copy it again")
    return content


def digest_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _require_decoder(place: Path, config: Json) -> None:
    require_decoder(str(place), config.get("model_type"))
    if config.get("auto_map"):
        raise CheckpointError(f"{place} asks for code of its own (auto_map), which is never run")


def _refuse_adapter(folder: Path) -> None:
    found = [name for name in _ADAPTERS if (folder / name).exists()]
    if found:
        raise CheckpointError(
            f"{folder} holds an adapter ({', '.join(found)}), which is not applied; merge the"
            " adapter first (merge_and_unload of peft) and save the merged model, or move it out of"
            " the folder if the model was trained without it"
        )


def _refuse_quantised(folder: Path, config: Json) -> None:
    settings = config.get("quantization_config") or config.get("compression_config")
    method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings
    notes = [name for name in _QUANTISED_NOTES if (folder / name).exists()]
    if method or notes:
        raise CheckpointError(
            f"the LLM in {folder} is quantised ({method or notes[0]}); give the weights in fp32,"
            " bf16 or fp16"
        )


def _tokenizer_files(folder: Path) -> list[Path]:
    config = read_json(folder / TOKENIZER_CONFIG)
    if "tokenizer_class" not in config | read_json(folder / CONFIG):
        raise CheckpointError(
            f"{folder / TOKENIZER_CONFIG} names no tokenizer_class, and another class prepends"
            " other tokens; copy the file that the LLM was trained with"
        )
    legacy = [] if "added_tokens_decoder" in config else _LEGACY_TOKENS
    files = [folder / name for name in (TOKENIZER, TOKENIZER_CONFIG, *legacy)]
    return [file for file in files if file.is_file()]


def _weight_files(folder: Path) -> Mapping[Path, set[str] | None]:
    """Give the files that `transformers` reads, with the tensors that the index looks for there."""
    indexed = _read_index(folder / INDEX) if (folder / INDEX).is_file() else {}
    whole = folder / WEIGHTS
    read: dict[Path, set[str] | None] = {whole: None} if whole.is_file() else {**indexed}
    files = sorted(set(folder.glob("*.safetensors")) - set(folder.glob(_SAME_IN_OTHER_FORMAT)))
    strays = [file.name for file in files if file not in read]
    if not read:
        raise CheckpointError(
            f"{folder} lacks {INDEX}, which tells how {', '.join(strays)} belong together; copy the"
            f" whole folder (a model in one file is {WEIGHTS})"
        )
    if strays:
        raise CheckpointError(
            f"{folder} holds {', '.join(strays)} beside {', '.join(file.name for file in read)},"
            " which would not be read; keep the files of one model and move the others away"
        )
    return read


def _read_index(path: Path) -> Mapping[Path, set[str] | None]:
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{path} holds no weight_map; copy it again")
    shards: dict[Path, set[str] | None] = {}
    for tensor, name in names.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{path}: {tensor} is in {name!r}, which is no name of a file")
        expected = shards.setdefault(path.with_name(name), set())
        assert expected is not None
        expected.add(tensor)
    missing = sorted(file.name for file in shards if not file.is_file())
    if missing:
        raise CheckpointError(
            f"{path.parent} lacks {', '.join(missing)}, which {path.name} names; copy all files of"
            " the model"
        )
    return shards


def _read_headers(files: Mapping[Path, set[str] | None]) -> Mapping[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file, expected in files.items():
        found = _read_header(file)
        if lost := sorted((expected or set()) - found.keys()):
            raise CheckpointError(
                f"{file} lacks {some(lost)}, which {INDEX} looks for there; keep the files of one"
                " model"
            )
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(
                f"{file} and {tensors[twice[0]].file.name} both hold {some(twice)}; keep the files"
                " of one model"
            )
        tensors |= found
    packed = [name for name, tensor in tensors.items() if tensor.dtype not in UNQUANTISED]
    packed = [name for name in packed if not name.endswith("inv_freq")]
    if packed:
        file, dtype, _ = tensors[packed[0]]
        raise CheckpointError(
            f"{file}: {some(packed)} {'is' if len(packed) == 1 else 'are'} quantised ({dtype});"
            " give the weights in fp32, bf16 or fp16"
        )
    return tensors


def _read_header(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: Tensor(file, part.get_dtype(), part.get_shape())
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy it again") from error


def some(names: Sequence[str]) -> str:
    """Name the first and count the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
