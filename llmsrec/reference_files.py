"""The files that the published LLM-SRec code writes, read and checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmsrec.encoding import History
from llmsrec.errors import CheckpointError
from llmsrec.model import COLLABORATIVE_DIM, HEAD_WIDTH, VECTOR_DIM
from llmsrec.reference_texts import read_dictionary
from llmsrec.unpickle import load_torch

_MLP_FILES = {
    "item_emb_proj": "_item_proj.pt",
    "pred_user": "_pred_user.pt",
    "pred_item": "_pred_item.pt",
}
_READOUT_FILES = {"CLS": "_CLS.pt", "CLS_item": "_CLS_item.pt"}
_SASREC_FILES = "SASRec_saving.*.pth"
_TITLE_FILE = "text_name_dict.json.gz"
_BARE_PARAMETERS = ("item_emb", "pos_emb")
"""Tables that the published code saves as `NAME` instead of `NAME.weight` on request."""


@dataclass(frozen=True)
class ReferenceFiles:
    heads: dict[str, Tensor]
    """`item_emb_proj.0.weight` … `pred_item.3.bias`, and `CLS`, `CLS_item` `[d]`."""
    item_table: Tensor  # [N, 64] float32, row = the published code's item id - 1
    titles: list[str]
    histories: list[History]
    """The newest interactions of some users, for comparisons."""
    sasrec: dict[str, Tensor]
    """The whole SASRec, whose `item_emb.weight` has the padding in row 0."""
    notes: list[str]
    """What a user should know of the titles and times, a sentence each."""


def read_reference(weights_dir: Path) -> ReferenceFiles:
    """Read one trained model and its titles from a folder.

    Raises:
        CheckpointError: a file is missing, ambiguous, damaged, or does not fit the others.
    """
    sasrec = _read_sasrec(_only_file(weights_dir, _SASREC_FILES))
    item_table = sasrec["item_emb.weight"][1:].clone()  # [N, 64]
    texts = read_dictionary(weights_dir / _TITLE_FILE, len(item_table))
    return ReferenceFiles(
        heads=_read_heads(weights_dir),
        item_table=item_table,
        titles=texts.titles,
        histories=texts.histories,
        sasrec=sasrec,
        notes=texts.notes,
    )


def _only_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise CheckpointError(
            f"{folder} lacks {pattern}; copy all files of the published code's training there"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder} holds {names}; keep the {pattern} of one training only")
    return found[0]


def _head_files(folder: Path) -> dict[str, Path]:
    suffixes = _MLP_FILES | _READOUT_FILES
    files = {name: _only_file(folder, f"*{suffix}") for name, suffix in suffixes.items()}
    prefixes = {path.name.removesuffix(suffixes[name]) for name, path in files.items()}
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{folder} mixes the trainings {', '.join(sorted(prefixes))}; keep the files of one"
        )
    return files


def _read_heads(folder: Path) -> dict[str, Tensor]:
    files = _head_files(folder)
    llm_dim = _llm_dim(files["item_emb_proj"])
    shapes = {
        "item_emb_proj": _mlp_shapes(COLLABORATIVE_DIM, llm_dim, llm_dim),
        "pred_user": _mlp_shapes(llm_dim, HEAD_WIDTH, VECTOR_DIM),
        "pred_item": _mlp_shapes(llm_dim, HEAD_WIDTH, VECTOR_DIM),
    }
    heads: dict[str, Tensor] = {}
    for name, expected in shapes.items():
        tensors = _read_tensors(files[name])
        _check_shapes(files[name], tensors, expected)
        heads |= {f"{name}.{key}": value for key, value in tensors.items()}
    for name in _READOUT_FILES:
        tensors = _read_tensors(files[name])
        _check_shapes(files[name], tensors, {"weight": [1, llm_dim]})
        heads[name] = tensors["weight"][0]  # [d]
    return heads


def _llm_dim(projector: Path) -> int:
    weight = _read_tensors(projector).get("0.weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"{projector}: expected 0.weight [LLM width, {COLLABORATIVE_DIM}]")
    return len(weight)


def _mlp_shapes(in_dim: int, width: int, out_dim: int) -> dict[str, list[int]]:
    return {
        "0.weight": [width, in_dim],
        "0.bias": [width],
        "1.weight": [width],
        "1.bias": [width],
        "3.weight": [out_dim, width],
        "3.bias": [out_dim],
    }


def _read_sasrec(path: Path) -> dict[str, Tensor]:
    content = load_torch(path)
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise CheckpointError(f"{path}: expected a list of the settings and the state dict")
    settings, state = content
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{path}: expected the settings as a dictionary")
    tensors = _as_tensors(path, state)
    for name in _BARE_PARAMETERS:
        if name in tensors:
            tensors[f"{name}.weight"] = tensors.pop(name)
    num_items = settings.get("item_num")
    if not isinstance(num_items, int) or num_items < 1:
        raise CheckpointError(f"{path}: expected item_num, the number of items, in the settings")
    table = {name: tensor for name, tensor in tensors.items() if name == "item_emb.weight"}
    _check_shapes(path, table, {"item_emb.weight": [num_items + 1, COLLABORATIVE_DIM]})
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    content = load_torch(path)
    return _as_tensors(path, {"weight": content} if isinstance(content, Tensor) else content)


def _as_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: expected tensors by name, found {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {name} is {type(tensor).__name__}, expected a tensor")
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in content.items()}
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(
            f"{path}: {', '.join(map(str, broken))} holds NaN or infinity; train it again"
        )
    return tensors


def _check_shapes(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, list[int]]
) -> None:
    for name, shape in expected.items():
        found = list(tensors[name].shape) if name in tensors else "missing"
        if found != shape:
            raise CheckpointError(f"{path}: {name} is {found}, expected {shape}")
    if extra := tensors.keys() - expected.keys():
        raise CheckpointError(f"{path}: unexpected {', '.join(sorted(extra))}")
