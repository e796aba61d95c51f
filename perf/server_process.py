"""A server in a process of its own, as it runs in production."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from perf.errors import MeasureError


class ServerProcess(NamedTuple):
    address: str
    pid: int
    ready_s: float
    """From the start of the process to its first answerable request."""

    def peak_mb(self) -> float:
        """Give the most memory that was resident so far (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        return int(kilobytes) * 1024 / 1e6


@contextmanager
def serving(bundle: Path) -> Iterator[ServerProcess]:
    """Serve a bundle on a free port of this machine; drained with SIGTERM afterwards."""
    with running("engine", "serve", str(bundle), "--listen", "127.0.0.1:0") as server:
        yield server


@contextmanager
def running(module: str, *arguments: str) -> Iterator[ServerProcess]:
    """Run a module whose first line of output is `ready HOST:PORT …`."""
    started = time.monotonic()
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            ready = process.stdout.readline().split() if process.stdout else []
            if not ready:
                raise MeasureError(f"{module} did not start; its message is above")
            yield ServerProcess(ready[1], process.pid, time.monotonic() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
