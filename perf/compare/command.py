"""Runs one model in every way at hand, on the same prompts and machine, and times them in turn.

Each way is a process of its own that turns rendered prompts into user vectors. Vectors and
answers are compared with PyTorch's in fp32 before anything is timed. A peer that is not installed
or fails is reported, and the run goes on.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from engine import Interaction
from engine.bundle.opened import Bundle, open_bundle
from engine.prompts.join import render
from llmsrec import checkpoint
from llmsrec.checkpoint import Checkpoint
from llmsrec.encoding import History
from llmsrec.files import written_aside
from perf.compare import end_to_end, forwards
from perf.compare.arguments import PLAIN_SERVICE
from perf.compare.contenders import choose_contenders, is_wanted
from perf.compare.end_to_end import Expected
from perf.compare.errors import CompareError
from perf.compare.forwards import Setting
from perf.compare.make_kit import make_kit
from perf.compare.result import Comparison, ServiceRow
from perf.compare.services import our_service, plain_service
from perf.compare.table import describe
from perf.load.environment import describe_environment


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the tables, write the file asked for.

    Raises:
        CompareError: there is nothing to compare with.
        EngineError: a bundle cannot be read.
        LLMSRecError: the checkpoint cannot be.
    """
    comparison = compare(arguments)
    sys.stdout.write("".join(f"{line}\n" for line in describe(comparison)))
    if arguments.json is not None:
        with written_aside(arguments.json) as aside:
            aside.write_bytes(msgspec.json.format(msgspec.json.encode(comparison)))
    return 0


def compare(arguments: argparse.Namespace) -> Comparison:
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise CompareError(f"{arguments.json}: there is no such folder; make it first")
    bundles = {path: open_bundle(path) for path in arguments.bundles}
    bundle = bundles[arguments.bundles[0]]
    loaded = checkpoint.load(arguments.checkpoint)
    histories = _choose_histories(loaded, arguments.prompts)
    prompts = [render(bundle.fragments, rows, times)[0] for rows, times in histories]
    manifest = bundle.manifest
    environment = describe_environment(manifest.model_version, manifest.catalogue_version)
    num_threads = len(os.sched_getaffinity(0))
    precisions = {path: each.manifest.precision for path, each in bundles.items()}
    contenders = choose_contenders(arguments, precisions)
    with (
        TemporaryDirectory(prefix="llmsrec-compare-") as folder,
        Progress(console=Console(stderr=True)) as bars,
    ):
        setting = Setting(
            kit=make_kit(Path(folder), loaded, prompts),
            checkpoint=arguments.checkpoint.resolve(),
            item_vectors=bundle.item_vectors,
            num_users=arguments.users,
            num_rounds=arguments.rounds,
            num_threads=num_threads,
        )
        vectors = forwards.measure(contenders, setting, bars)
        expected = Expected(
            histories=[as_interactions(bundle, history) for history in histories],
            scores=vectors @ bundle.item_vectors.T,  # [P, N]
            row_of_id=bundle.row_of_id,
        )
        services = _compare_services(arguments, precisions, expected, bars)
    return Comparison(
        environment=environment,
        num_prompts=len(prompts),
        mean_tokens=float(np.mean([len(prompt) for prompt in prompts])),
        num_users=arguments.users,
        num_rounds=arguments.rounds,
        num_threads=num_threads,
        num_clients=end_to_end.NUM_CLIENTS,
        rows=[contender.row for contender in contenders],
        services=services,
    )


def _choose_histories(loaded: Checkpoint, num_prompts: int) -> Sequence[History]:
    if len(loaded.histories) < num_prompts:
        raise CompareError(
            f"the checkpoint holds {len(loaded.histories)} histories; ask for no more --prompts"
        )
    return loaded.histories[:num_prompts]


def as_interactions(bundle: Bundle, history: History) -> list[Interaction]:
    return [
        Interaction(bundle.item_ids[row], time_ms) for row, time_ms in zip(*history, strict=True)
    ]


def _compare_services(
    arguments: argparse.Namespace,
    precisions: Mapping[Path, str],
    expected: Expected,
    bars: Progress,
) -> list[ServiceRow]:
    if not is_wanted(arguments, PLAIN_SERVICE):
        return []
    with ExitStack() as running:
        services = [
            running.enter_context(our_service(path, precision))
            for path, precision in precisions.items()
        ]
        missing = []
        try:
            plain = plain_service(arguments.checkpoint, next(iter(precisions)))
            services.append(running.enter_context(plain))
        except CompareError as error:
            missing = [ServiceRow(name=PLAIN_SERVICE, problem=str(error))]
        return [*end_to_end.measure(services, expected, arguments.rounds, bars), *missing]
