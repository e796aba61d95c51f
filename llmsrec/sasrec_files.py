"""A trained SASRec on disk: `sasrec.safetensors` and, written last, `sasrec.json`."""

from pathlib import Path

import msgspec
from safetensors.torch import load, save

from llmsrec.errors import CheckpointError, DataError
from llmsrec.files import sha256_of_file, written_aside
from llmsrec.sasrec import SASRec, Shape

_DESCRIPTION = "sasrec.json"
_WEIGHTS = "sasrec.safetensors"


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    num_items: int
    shape: Shape
    dataset: str
    dataset_sha256: str
    training: dict[str, str | int | float]
    metrics: dict[str, dict[str, float]]
    """Per split, then per metric."""
    weights_sha256: str = ""

    def require_trained_on(self, dataset_sha256: str) -> None:
        """Refuse a teacher whose item rows mean other items.

        Raises:
            DataError: it was trained on another dataset.
        """
        if self.dataset_sha256 != dataset_sha256:
            raise DataError("--sasrec was trained on another dataset than --dataset; train it anew")


def save_sasrec(folder: Path, model: SASRec, description: Description) -> None:
    """Write a model into `folder`; its `weights_sha256` is filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    with written_aside(folder / _WEIGHTS) as aside:
        aside.write_bytes(save(weights))
    digest = sha256_of_file(folder / _WEIGHTS)
    whole = msgspec.structs.replace(description, weights_sha256=digest)
    with written_aside(folder / _DESCRIPTION) as aside:
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")


def load_sasrec(folder: Path) -> tuple[SASRec, Description]:
    """Read a model in evaluation mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not belong together.
    """
    remedy = "finish or repeat train-sasrec"
    try:
        described = (folder / _DESCRIPTION).read_bytes()
        description = msgspec.json.decode(described, type=Description)
        weights = (folder / _WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} holds no trained SASRec ({error}); {remedy}") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{folder / _DESCRIPTION}: {error}; {remedy}") from error
    if sha256_of_file(folder / _WEIGHTS) != description.weights_sha256:
        raise CheckpointError(
            f"{folder}: {_WEIGHTS} is not the file that {_DESCRIPTION} describes; {remedy}"
        )
    model = SASRec(description.num_items, description.shape)
    model.load_state_dict(load(weights))
    return model.eval(), description
