"""Who takes part in a comparison: what each is, what it needs, and how that is installed."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from perf.compare.result import Row

EXTRA = "pip install --no-build-isolation -c requirements.lock -e '.[compare]'"
OWN_ENVIRONMENT = "perf/README.md says how; name its interpreter with --python vllm=PATH"


class Peer(NamedTuple):
    library: str
    """What `--peer` and `--python` call it; several precisions share one."""
    precision: str
    module: str
    """Its `load(task)` is called in a process of its own."""
    packages: tuple[str, ...]
    """As imported; it is absent without the first, and the versions of all are reported."""
    install: str = EXTRA

    @property
    def name(self) -> str:
        return f"{self.library} {self.precision}"


_MODULES = "perf.compare.peers"
_TORCH = ("torch", "transformers")

REFERENCE = Peer("pytorch", "fp32", f"{_MODULES}.pytorch", _TORCH)
"""Whose vectors the others are held to."""

PEERS = [
    REFERENCE,
    Peer("pytorch", "bf16", f"{_MODULES}.pytorch", _TORCH),
    Peer("torch.compile", "fp32", f"{_MODULES}.torch_compile", _TORCH),
    Peer("torch.compile", "bf16", f"{_MODULES}.torch_compile", _TORCH),
    Peer("optimum", "fp32", f"{_MODULES}.optimum", ("optimum", "onnxruntime")),
    Peer("openvino", "fp32", f"{_MODULES}.openvino", ("openvino",)),
    Peer("openvino", "bf16", f"{_MODULES}.openvino", ("openvino",)),
    *(
        Peer("llama.cpp", precision, f"{_MODULES}.llama_cpp", ("llama_cpp",))
        for precision in ("fp32", "fp16", "bf16", "int8")
    ),
    Peer("vllm", "fp32", f"{_MODULES}.vllm", ("vllm", "torch"), OWN_ENVIRONMENT),
    Peer("vllm", "bf16", f"{_MODULES}.vllm", ("vllm", "torch"), OWN_ENVIRONMENT),
]
PLAIN_SERVICE = "fastapi"
LIBRARIES = [*dict.fromkeys(peer.library for peer in PEERS), PLAIN_SERVICE]
"""What `--peer` takes."""


def ours(precision: str) -> Peer:
    return Peer("ours", precision, f"{_MODULES}.ours", ("engine", "onnxruntime"))


@dataclass(frozen=True)
class Contender:
    peer: Peer
    row: Row
    """What is found out about it."""
    python: str = sys.executable
    bundle: Path = Path()
    """What ours opens."""


def choose_contenders(
    arguments: argparse.Namespace, precisions: Mapping[Path, str]
) -> list[Contender]:
    """Give the reference, then our bundles by their precision, then the peers that are wanted."""
    pythons = dict(arguments.python)
    own = [
        Contender(
            ours(precision),
            Row(name=f"ours {precision} ({path})", precision=precision, is_ours=True),
            bundle=path.resolve(),
        )
        for path, precision in precisions.items()
    ]
    others = [
        Contender(
            peer,
            Row(name=peer.name, precision=peer.precision),
            pythons.get(peer.library, sys.executable),
        )
        for peer in PEERS
        if peer is REFERENCE or is_wanted(arguments, peer.library)
    ]
    return [others[0], *own, *others[1:]]


def is_wanted(arguments: argparse.Namespace, library: str) -> bool:
    return arguments.peer is None or library in arguments.peer
