"""What the machine can do at best, measured: the roof over every other figure."""

import time
from collections.abc import Callable

import torch

NUM_TRIES = 7
MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
READ_BYTES = 1 << 30


def matrix_peak_gflops(device: str, dtype: torch.dtype) -> float:
    """Multiply square matrices with PyTorch, on all threads of the CPU or on the GPU."""
    size = MATRIX_SIZES[device]
    left, right = torch.rand(2, size, size).to(device, dtype)

    def multiply() -> None:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / best_seconds(multiply) / 1e9


def read_peak_gb_per_s() -> float:
    """Sum an array much larger than any cache, on all threads."""
    array = torch.ones(READ_BYTES // 4)
    return READ_BYTES / best_seconds(array.sum) / 1e9


def best_seconds(call: Callable[[], object]) -> float:
    """Give the shortest of several runs, after one that does not count."""
    call()
    times = []
    for _ in range(NUM_TRIES):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
