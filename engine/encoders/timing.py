"""Times what an encoder runs to warm up."""

import time
from collections.abc import Callable


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3
