"""Times what an encoder runs to warm up, and tells of each size once it is ready."""

import logging
import time
from collections.abc import Callable

from engine.sizes import Size

_LOG = logging.getLogger(__name__)


def measure_ready(size: Size, forward: Callable[[], object]) -> float:
    """Give the milliseconds of a forward, of a size that has run before."""
    started = time.perf_counter()
    forward()
    measured_ms = (time.perf_counter() - started) * 1e3
    _LOG.info("ready for %s, measured %.1f ms", size, measured_ms)
    return measured_ms
