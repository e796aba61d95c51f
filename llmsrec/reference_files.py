"""The files that the published LLM-SRec code writes, read and checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmsrec.encoding import NUM_HISTORIES, History
from llmsrec.errors import CheckpointError
from llmsrec.model import COLLABORATIVE_DIM, HEAD_WIDTH, VECTOR_DIM
from llmsrec.prompt import MAX_INTERACTIONS, MAX_TIMESTAMP_MS
from llmsrec.unpickle import load_pickle, load_torch

MISSING_TITLE = "No Title"
"""What the published code puts into a prompt for an item without a title."""

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


def read_reference(weights_dir: Path) -> ReferenceFiles:
    """Read one trained model and its titles from a folder.

    Raises:
        CheckpointError: a file is missing, ambiguous, damaged, or does not fit the others.
    """
    sasrec = _read_sasrec(_only_file(weights_dir, _SASREC_FILES))
    item_table = sasrec["item_emb.weight"][1:].clone()  # [N, 64]
    titles, histories = _read_dictionary(weights_dir / _TITLE_FILE, len(item_table))
    return ReferenceFiles(
        heads=_read_heads(weights_dir),
        item_table=item_table,
        titles=titles,
        histories=histories,
        sasrec=sasrec,
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


def _read_dictionary(path: Path, num_items: int) -> tuple[list[str], list[History]]:
    if not path.exists():
        raise CheckpointError(f"{path.parent} lacks {path.name}, the titles of the items")
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(content).__name__}")
    titles, times = content.get("title"), content.get("time")
    if not isinstance(titles, Mapping) or not isinstance(times, Mapping):
        raise CheckpointError(
            f"{path}: expected a dictionary with the items' titles as 'title' and the times of"
            " their interactions as 'time'"
        )
    return _read_titles(path, titles, num_items), _read_histories(path, times, num_items)


def _read_titles(path: Path, titles: Mapping[object, object], num_items: int) -> list[str]:
    ids = range(1, num_items + 1)
    if not any(item_id in titles for item_id in ids):
        raise CheckpointError(
            f"{path} has no title for any item id from 1 to {num_items}; use the dictionary of"
            " the data set that the model was trained on"
        )
    found = []
    for item_id in ids:
        title = titles.get(item_id, MISSING_TITLE)
        if not isinstance(title, str):
            raise CheckpointError(f"{path}: the title of item {item_id} is {title!r}, not text")
        found.append(title)
    return found


def _read_histories(path: Path, times: Mapping[object, object], num_items: int) -> list[History]:
    interactions: dict[object, list[tuple[int, int]]] = {}
    for item_id, time_of_user in times.items():
        if not isinstance(item_id, int) or not isinstance(time_of_user, Mapping):
            raise CheckpointError(f"{path}: 'time' holds {item_id!r}, expected times by item, user")
        if not 1 <= item_id <= num_items:
            continue
        for user, time in time_of_user.items():
            interactions.setdefault(user, []).append((_time_ms(path, time), item_id - 1))
    newest = [sorted(pairs)[-MAX_INTERACTIONS:] for pairs in interactions.values()]
    return [
        ([row for _, row in pairs], [time_ms for time_ms, _ in pairs])
        for pairs in newest[:NUM_HISTORIES]
    ]


def _time_ms(path: Path, time: object) -> int:
    """Read a time, which the published code keeps as a number or as its text."""
    text = str(time)
    if text.isdecimal() and int(text) <= MAX_TIMESTAMP_MS:
        return int(text)
    raise CheckpointError(
        f"{path}: {text!r} is no time; expected milliseconds in 0..{MAX_TIMESTAMP_MS}"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    content = load_torch(path)
    return _as_tensors(path, {"weight": content} if isinstance(content, Tensor) else content)


def _as_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: expected tensors by name, found {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {name} is {type(tensor).__name__}, expected a tensor")
    return {name: tensor.detach().float().contiguous() for name, tensor in content.items()}


def _check_shapes(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, list[int]]
) -> None:
    for name, shape in expected.items():
        found = list(tensors[name].shape) if name in tensors else "missing"
        if found != shape:
            raise CheckpointError(f"{path}: {name} is {found}, expected {shape}")
    if extra := tensors.keys() - expected.keys():
        raise CheckpointError(f"{path}: unexpected {', '.join(sorted(extra))}")
