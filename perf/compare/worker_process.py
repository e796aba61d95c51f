"""The parent's side of a peer's process, which stands still while it is not its turn.

Libraries keep threads spinning after a forward; a stopped process takes nothing from the others.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

import msgspec
import numpy as np

from perf.compare.messages import Absent, Encoded, PeerTask, Ready, Turn
from perf.compare.peer_inputs import Vectors
from perf.errors import MeasureError, PeerFailed

ROOT = Path(__file__).parents[2]
LOAD_SECONDS = 1200.0
TURN_SECONDS = 600.0
"""The first turns of a peer may compile."""
EXIT_SECONDS = 10.0

_OWN_ERROR = f"{MeasureError.__module__}.{MeasureError.__qualname__}: "
"""What a traceback puts before the text of one of ours."""


class WorkerProcess:
    def __init__(self, python: str, log: Path, num_threads: int) -> None:
        self._log = log
        self._connection, theirs = Pipe()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [python, "-m", "perf.compare.worker", str(theirs.fileno())],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                process_group=0,  # which is stopped and killed as a whole
            )
        theirs.close()
        self.pid = self._process.pid

    def load(self, task: PeerTask) -> Ready | Absent:
        """Wait until the model is loaded.

        Raises:
            PeerFailed: it ended, or takes too long.
        """
        answer = self._ask(task, LOAD_SECONDS)
        assert isinstance(answer, Ready | Absent)
        self._signal(signal.SIGSTOP)
        return answer

    def encode(self, prompts: Sequence[int]) -> tuple[Vectors, float]:
        """Give the user vectors `[B, D]` of prompts of its inputs, and the milliseconds they took.

        Raises:
            PeerFailed: it ended, or takes too long.
        """
        self._signal(signal.SIGCONT)
        answer = self._ask(Turn(list(prompts)), TURN_SECONDS)
        assert isinstance(answer, Encoded)
        self._signal(signal.SIGSTOP)
        return np.array(answer.vectors, np.float32), answer.time_ms

    def close(self) -> None:
        self._connection.close()
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _ask(self, question: msgspec.Struct, seconds: float) -> Ready | Absent | Encoded:
        try:
            self._connection.send_bytes(msgspec.json.encode(question))
            if not self._connection.poll(seconds):
                raise PeerFailed(f"gave no answer in {seconds:g} s")
            answer = self._connection.recv_bytes()
        except (EOFError, ConnectionError) as error:
            raise PeerFailed(self._last_words()) from error
        return msgspec.json.decode(answer, type=Ready | Absent | Encoded)

    def _last_words(self) -> str:
        """Say how it ended: the last line of its traceback, or the signal that killed it."""
        code = self._process.wait(EXIT_SECONDS)
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix(_OWN_ERROR) if lines else f"exited with {code}"

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # where nothing of it is left
            os.killpg(self.pid, number)
