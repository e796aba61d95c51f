"""The state of an unfinished training on disk, from which a killed training goes on exactly."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llmsrec.errors import CheckpointError
from llmsrec.files import written_aside

Origin = Mapping[str, str | int | float]
"""What must not change between a training and its resumption: hyper-parameters, data digests."""

_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError)
"""What `torch.load` raises for a file that is truncated, garbled or not its own."""


def save_state(path: Path, state: Mapping[str, Any], origin: Origin) -> None:
    """Replace the state on disk; a kill at any moment leaves the old one or the new one.

    `state` may nest tensors, numbers, strings and None in dicts, lists and tuples.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        torch.save({"origin": dict(origin), "state": dict(state)}, aside)


def load_state(path: Path, origin: Origin) -> dict[str, Any] | None:
    """Give the saved state, its tensors on the CPU, or None where there is none yet.

    Raises:
        CheckpointError: the state is damaged or of a training with another origin.
    """
    if not path.exists():
        return None
    remedy = "pass --restart to begin anew, or name another --output"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["origin"], saved["state"]
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is no state of a training; {remedy}") from error
    differing = [
        f"{name} was {found.get(name)!r} and is {origin.get(name)!r} now"
        for name in sorted(found.keys() | origin.keys())
        if found.get(name) != origin.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{path} belongs to another training ({'; '.join(differing)}); {remedy}"
        )
    return dict(state)
