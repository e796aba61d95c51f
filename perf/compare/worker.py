"""A peer's process: loads its model, then encodes what it is asked for and times each forward.

It talks through an inherited pipe, whose descriptor is its only argument, so that whatever a
library prints goes elsewhere. A failure ends it, with the traceback as its last words.
"""

import importlib.util
import sys
import time
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from multiprocessing.connection import Connection

import msgspec

from perf.compare.messages import Absent, Encoded, PeerTask, Ready, Turn


def run(parent: Connection) -> None:
    task = msgspec.json.decode(parent.recv_bytes(), type=PeerTask)
    if importlib.util.find_spec(task.packages[0]) is None:
        parent.send_bytes(msgspec.json.encode(Absent(task.packages[0])))
        return
    encode = importlib.import_module(task.module).load(task)
    prompts = task.inputs.prompts
    parent.send_bytes(msgspec.json.encode(Ready(_versions(task.packages))))
    while True:
        turn = msgspec.json.decode(parent.recv_bytes(), type=Turn)
        chosen = [prompts[index] for index in turn.prompts]
        started = time.perf_counter()
        vectors = encode(chosen)
        time_ms = (time.perf_counter() - started) * 1e3
        parent.send_bytes(msgspec.json.encode(Encoded(vectors.tolist(), time_ms)))


def _versions(packages: Sequence[str]) -> dict[str, str]:
    distributions = packages_distributions()
    names = {name for package in packages for name in distributions.get(package, [])}
    return {name: version(name) for name in sorted(names)}


if __name__ == "__main__":
    run(Connection(int(sys.argv[1])))
