"""Where and how figures were taken."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

PACKAGES = ("llmsrec-engine", "grpcio", "numpy", "onnxruntime", "protobuf")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    command: str
    started: str
    """UTC."""
    machine: str
    num_cores: int
    """That this process may use."""
    load_average: float
    """The minute before the run: what else kept the machine busy."""
    system: str
    versions: dict[str, str]
    """What the clients run with, and the server where it was started for the run."""
    model_version: str
    catalogue_version: str


def describe_environment(model_version: str, catalogue_version: str) -> Environment:
    return Environment(
        command=shlex.join(["python", "-m", "perf", *sys.argv[1:]]),
        started=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        machine=_processor(),
        num_cores=len(os.sched_getaffinity(0)),
        load_average=os.getloadavg()[0],
        system=f"{platform.system()} {platform.release()}",
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        model_version=model_version,
        catalogue_version=catalogue_version,
    )


def _processor() -> str:
    """Give the processor's name as Linux knows it, else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
