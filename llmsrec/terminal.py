"""What the command lines share: any text on any terminal, errors of one line, a quiet end."""

import argparse
import errno
import functools
import io
import os
import select
import signal
import sys
import unicodedata
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TextIO

Parameters = ParamSpec("Parameters")

INTERRUPTED = 128 + signal.SIGINT
READER_LEFT = 128 + signal.SIGPIPE
"""Exit codes by which a shell knows what ended a program."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_STRICT = ("strict", "surrogateescape")
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
"""What Persian, Indic scripts and emoji are written with."""


def command(main: Callable[Parameters, int]) -> Callable[Parameters, int]:
    """Let a program write any text, and end without a traceback on Ctrl-C and closed outputs."""

    @functools.wraps(main)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
        _accept_any_text()
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            return INTERRUPTED
        except OSError as error:
            if not _is_of_output(error):
                raise
            _lead_outputs_nowhere()
            if isinstance(error, BrokenPipeError):
                return READER_LEFT
            write_error(f"cannot write the output: {error.strerror}")
            return 1

    return run


class Parser(argparse.ArgumentParser):
    """Names what was typed wrong on one line."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def write_error(text: str) -> None:
    sys.stderr.write(f"error: {printable(text)}\n")


def printable(text: str) -> str:
    """Escape what would move the cursor, colour, reorder or break the line that shows it."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
        else character
        for character in text
    )


def _accept_any_text() -> None:
    """Escape what an output's encoding lacks; an output that is closed takes all and shows none."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in _STRICT:
            stream.reconfigure(errors="backslashreplace")


def _is_of_output(error: OSError) -> bool:
    """Tell whether an output could not be written, from whatever else the system refuses."""
    if not isinstance(error, BrokenPipeError):
        return error.filename is None and error.errno in _FULL
    outputs = select.poll()
    for stream in (sys.stdout, sys.stderr):
        outputs.register(stream.fileno(), 0)  # an error is told of without being asked for
    return any(event & select.POLLERR for _, event in outputs.poll(0))


def _lead_outputs_nowhere() -> None:
    """Discard what cannot be written, so that nothing complains of it when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
