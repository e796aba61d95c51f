"""What SIGTERM, SIGINT and SIGHUP do to a server, from before it loads anything.

Linux drops a signal to a container's first process that has no handler for it, so there is one from
the start.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Self

from engine.untyped import Untyped


class StopSignals:
    """Within its block, ends the process at SIGTERM or SIGINT, or calls what `call_next` says."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Untyped] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, _decline)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call_next(self, stop: Callable[[], None] | None) -> None:
        """Call `stop` at the next signal and end at the one after; None ends at the next."""
        self._stop = stop

    def _receive(self, number: int, _: FrameType | None) -> None:
        stop, self._stop = self._stop, None
        if stop is None:
            _die_of(signal.Signals(number))
        else:
            stop()


def _die_of(number: signal.Signals) -> None:
    _say(f"{number.name}: ends at once, whatever is under way")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # a container's first process, which its own signal does not end


def _decline(_: int, __: FrameType | None) -> None:
    _say("SIGHUP: nothing is read again; restart the server for another bundle or configuration")


def _say(text: str) -> None:
    """Write a line past Python's buffers, which may be in use where the signal came in."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
