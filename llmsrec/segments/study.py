"""Trains over segments with each combination of settings, and tells what each gave in validation.

Test targets are never looked at: what is chosen here is measured once, by `evaluate`.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from llmsrec import llm
from llmsrec.dataset import Dataset
from llmsrec.errors import DataError, TrainingError
from llmsrec.files import claimed, require_apart
from llmsrec.progress import progress_bars
from llmsrec.sasrec_files import load_sasrec
from llmsrec.segments.train import Trainer
from llmsrec.settings import SegmentsSettings

RESULTS = "results.jsonl"
VARIED = ("seed", "num_layers", "window", "learning_rate", "weight_decay")
"""Settings of which a study takes several values; all others are tried before another seed is."""


class Result(msgspec.Struct, frozen=True):
    """One training: its settings, its best epoch, and what it measured on validation targets."""

    inputs: dict[str, str]
    """SHA-256 of dataset, teacher and LLM."""
    settings: SegmentsSettings
    best_epoch: int
    validation: dict[str, float]
    seconds: float
    """Wall-clock time of all parts of the training in this process, reading titles included."""


def combine(arguments: argparse.Namespace) -> Iterator[SegmentsSettings]:
    """Give the settings of each training."""
    fixed = {
        name: getattr(arguments, name)
        for name in SegmentsSettings.__struct_fields__
        if name not in VARIED
    }
    for values in itertools.product(*(getattr(arguments, name) for name in VARIED)):
        varied = dict(zip(VARIED, values, strict=True))
        yield msgspec.convert({**fixed, **varied}, SegmentsSettings)


def name_of(settings: SegmentsSettings) -> str:
    """Give the folder of a training, by the settings that vary."""
    values = msgspec.to_builtins(settings)
    return "-".join(f"{name.replace('_', '')}{values[name]}" for name in VARIED)


def run(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    require_apart(
        output, dataset=arguments.dataset, sasrec=arguments.sasrec, llm=Path(arguments.llm)
    )
    try:
        wanted = list(combine(arguments))
    except msgspec.ValidationError as error:
        raise TrainingError(f"an option does not fit: {error}") from error
    with claimed(output), progress_bars() as bars:
        output.mkdir(exist_ok=True)
        dataset, sasrec = Dataset.load(arguments.dataset), load_sasrec(arguments.sasrec)
        inputs = {
            "dataset": dataset.digest(),
            "sasrec": sasrec[1].weights_sha256,
            "llm": llm.locate(arguments.llm).sha256,
        }
        done = read_results(output / RESULTS, inputs)
        task = bars.add_task("trainings", total=len(wanted))
        for settings in wanted:
            if settings not in [result.settings for result in done]:
                started = time.monotonic()
                trainer = Trainer(dataset, sasrec, arguments.llm, settings, bars)
                trainer.run(output / name_of(settings), bars)
                seconds = time.monotonic() - started
                done.append(Result(inputs, settings, trainer.best_epoch, trainer.best, seconds))
                with (output / RESULTS).open("ab") as file:
                    file.write(msgspec.json.encode(done[-1]) + b"\n")
            bars.advance(task)
    for line in describe([result for result in done if result.settings in wanted]):
        sys.stdout.write(f"{line}\n")


def read_results(path: Path, inputs: dict[str, str]) -> list[Result]:
    """Read what a study has found so far; a line that a kill cut off is trained again.

    Raises:
        DataError: a line is no result, or one of other inputs.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    try:
        results = msgspec.json.Decoder(Result).decode_lines(whole)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; move it away and repeat the study") from error
    for result in results:
        differing = [name for name, digest in inputs.items() if result.inputs.get(name) != digest]
        if differing:
            raise DataError(f"{path} is of another {differing[0]}; name another --output")
    return results


def describe(results: list[Result]) -> Iterator[str]:
    """Lay results out, the best first."""
    yield "NDCG@10   HR@10  epoch  seconds  " + "  ".join(VARIED)
    for result in sorted(results, key=lambda result: -result.validation["ndcg@10"]):
        measured, values = result.validation, msgspec.to_builtins(result.settings)
        varied = "  ".join(f"{values[name]!s:>{len(name)}}" for name in VARIED)
        yield (
            f"{measured['ndcg@10']:7.3f} {measured['hr@10']:7.3f} {result.best_epoch:6}"
            f" {result.seconds:8.0f}  {varied}"
        )
