"""Decides at the door which requests are worth starting."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.config import AdmissionConfig
from engine.errors import DeadlineExpired, Overloaded, ShuttingDown


class Admission:
    """One permit for each request in flight."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._max_in_flight = config.max_in_flight
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.num_in_flight = 0

    @contextmanager
    def permit(self, deadline: float | None) -> Iterator[None]:
        """Hold a permit; `deadline` is in seconds of `time.monotonic`.

        Raises:
            ShuttingDown: admission is closed.
            DeadlineExpired: the deadline has passed.
            Overloaded: every permit is taken.
        """
        if self._closed:
            raise ShuttingDown("the server is shutting down; try again, another replica answers")
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineExpired("the deadline had passed on arrival; allow more time")
        if self.num_in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self._max_in_flight} requests are in flight; try again after a pause, "
                "add a replica or raise admission.max_in_flight"
            )
        self.num_in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.num_in_flight -= 1
            if self.num_in_flight == 0:
                self._idle.set()

    def close(self) -> None:
        """Refuse every request from now on."""
        self._closed = True

    async def wait_idle(self) -> None:
        """Wait until no permit is held."""
        await self._idle.wait()
