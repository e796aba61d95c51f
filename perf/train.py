"""Times a training step, and the readout of a window, beside the arithmetic that each does.

PyTorch counts the arithmetic while it runs, forward and backward: matrix products with padding,
and on the CPU attention over the tokens before each one. The roof is its matrix product in the
precision of the frozen LLM, on the same device. The teacher is untrained, which takes as long.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmsrec import llm
from llmsrec.dataset import Dataset
from llmsrec.movielens import load_movielens
from llmsrec.readouts import newest_windows, readouts_after_each
from llmsrec.sasrec import DEFAULT_SHAPE, SASRec
from llmsrec.sasrec_files import Description
from llmsrec.train import DTYPES, Settings, Trainer
from perf.peaks import matrix_peak_gflops

NUM_WARM_UPS = 2

Shape = list[int]


class Figures(msgspec.Struct, frozen=True):
    median_ms: float
    gflop: float
    gflop_per_s: float
    share_of_peak: float


class Result(msgspec.Struct, frozen=True):
    num_users: int
    """Of a step."""
    precision: str
    peak_gflop_per_s: float
    step: Figures
    """Forward, backward and the optimiser, of `llmsrec train`."""
    readout: Figures
    """Forward of `llmsrec refine`, for one user's newest window."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings = Settings()
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--dataset", type=Path, help="a directory that `prepare` wrote, else MovieLens-100K")
    add("--llm", default=llm.SMOLLM2, help="a folder as transformers saves it, or smollm2-135m")
    add("--batch-size", type=int, default=settings.batch_size, help="users of one step")
    add("--precision", choices=DTYPES, default=settings.precision, help="of the frozen LLM")
    add("--rounds", type=int, default=5, help=f"timings, besides {NUM_WARM_UPS} to warm up")


def run(arguments: argparse.Namespace) -> Result:
    folder = arguments.dataset
    dataset = load_movielens("ml-100k") if folder is None else Dataset.load(folder)
    settings = Settings(batch_size=arguments.batch_size, precision=arguments.precision)
    trainer = Trainer(dataset, make_teacher(dataset), arguments.llm, settings)
    batch = next(trainer.draw_batches())
    windows = newest_windows(dataset, 1)
    newest = slice(windows.starts[0], windows.ends[0])
    history = (part[newest].tolist() for part in dataset.sequence(0))
    window = trainer.writer.user(*history)

    @torch.inference_mode()
    def read() -> None:
        readouts_after_each(trainer.model, window).cpu()

    device, dtype = trainer.model.item_table.device.type, DTYPES[settings.precision]
    peak = matrix_peak_gflops(device, dtype)
    return Result(
        num_users=len(batch),
        precision=settings.precision,
        peak_gflop_per_s=peak,
        step=time_beside_peak(lambda: trainer.learn(batch), arguments.rounds, peak),
        readout=time_beside_peak(read, arguments.rounds, peak),
    )


def make_teacher(dataset: Dataset) -> tuple[SASRec, Description]:
    description = Description(
        num_items=dataset.num_items,
        shape=DEFAULT_SHAPE,
        dataset=dataset.name,
        dataset_sha256=dataset.digest(),
        training={},
        metrics={},
    )
    return SASRec(dataset.num_items).eval(), description


def time_beside_peak(call: Callable[[], object], rounds: int, peak: float) -> Figures:
    gflop = count_flop(call) / 1e9
    times = []
    for _ in range(rounds + NUM_WARM_UPS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[NUM_WARM_UPS:])
    return Figures(seconds * 1e3, gflop, gflop / seconds, gflop / seconds / peak)


def count_flop(call: Callable[[], object]) -> int:
    """Count the multiplications and additions of a call's matrix products and attention."""
    aten = torch.ops.aten
    attention: dict[object, object] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,  # noqa: SLF001
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flop,  # noqa: SLF001
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        call()
    num_flop: int = counter.get_total_flops()
    return num_flop


def _attention_flop(query: Shape, key: Shape, _value: Shape, *options: bool, **_: object) -> int:
    """Count the two products; `options` are the operator's: dropout, and whether it is causal."""
    batch, num_heads, num_queries, width = query
    is_causal = options[1:2] == (True,)
    num_pairs = num_queries * (num_queries + 1) // 2 if is_causal else num_queries * key[2]
    return 4 * batch * num_heads * num_pairs * width


def _backward_flop(_gradient: Shape, *arguments: Any, **_: object) -> int:  # noqa: ANN401
    """Count five products: the scores anew, and the gradients of both products' factors."""
    query, key, value, _output, _logsumexp, *options = arguments
    return _attention_flop(query, key, value, *options) * 5 // 2
