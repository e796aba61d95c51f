"""Who takes part in a comparison."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perf.compare.peer import PEERS, REFERENCE, Peer, ours
from perf.compare.result import Row


@dataclass(frozen=True)
class Contender:
    peer: Peer
    row: Row
    """What is found out about it."""
    python: str = sys.executable
    bundle: Path = Path()
    """Only of ours."""


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
