"""Runs one model in every way at hand, on the same prompts and machine, and times them in turn.

Each way is a process of its own that turns rendered prompts into user vectors. Vectors and answers
are compared with PyTorch's in fp32, before the timing and those of the timing, too. A peer that is
not installed or fails is reported, and the run goes on.
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
from rich.progress import Progress

from engine.bundle.opened import open_bundle
from llmsrec import checkpoint
from llmsrec.checkpoint import Checkpoint
from llmsrec.encoding import History
from llmsrec.progress import progress_bars
from perf.command_line import count
from perf.compare import end_to_end, forwards
from perf.compare.contenders import LIBRARIES, PLAIN_SERVICE, choose_contenders, is_wanted
from perf.compare.end_to_end import Expected
from perf.compare.forwards import Conditions
from perf.compare.result import Comparison, ServiceRow
from perf.compare.services import our_service, plain_service
from perf.compare.table import describe
from perf.compare.write_inputs import write_inputs
from perf.engine_access import as_interactions, render_history
from perf.environment import describe_environment
from perf.errors import MeasureError
from perf.output_files import require_folders, write_file

EXAMPLES = """
  python -m perf compare demo/bundle --checkpoint llmsrec/pretrained/ml-100k-smollm2-135m
  python -m perf compare BUNDLE OTHER_BUNDLE --checkpoint DIR --peer openvino --peer fastapi
  taskset -c 0 python -m perf compare BUNDLE --checkpoint DIR     # on one core
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="ours, in one precision or several")
    add("--checkpoint", type=Path, required=True, metavar="DIR", help="what they were built from")
    add("--peer", action="append", choices=LIBRARIES, help="only this one; may be repeated")
    add(
        "--python",
        action="append",
        default=[],
        type=_read_interpreter,
        metavar="PEER=PATH",
        help="the interpreter of a peer that has an environment of its own",
    )
    add("--users", type=count, default=1, help="prompts of one forward")
    add("--prompts", type=count, default=32, help="real ones, to compare")
    add("--rounds", type=count, default=10, help="timings of each")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")


def _read_interpreter(text: str) -> tuple[str, str]:
    library, _, path = text.partition("=")
    if library not in LIBRARIES or not Path(path).is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no PEER=PATH of an interpreter, PEER being one of {', '.join(LIBRARIES)}"
        )
    return library, str(Path(path).absolute())


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the tables, write the file asked for.

    Raises:
        MeasureError: there is nothing to compare with, or ours is wrong.
        EngineError: a bundle cannot be read.
        LLMSRecError: the checkpoint cannot be.
    """
    comparison = compare(arguments)
    sys.stdout.write("".join(f"{line}\n" for line in describe(comparison)))
    if arguments.json is not None:
        write_file(arguments.json, msgspec.json.format(msgspec.json.encode(comparison)))
    return 0


def compare(arguments: argparse.Namespace) -> Comparison:
    require_folders(arguments.json)
    bundles = {path: open_bundle(path) for path in arguments.bundles}
    bundle = bundles[arguments.bundles[0]]
    loaded = checkpoint.load(arguments.checkpoint)
    histories = _choose_histories(loaded, arguments.prompts)
    prompts = [render_history(bundle, history) for history in histories]
    manifest = bundle.manifest
    environment = describe_environment(manifest.model_version, manifest.catalogue_version)
    num_threads = len(os.sched_getaffinity(0))
    precisions = {path: each.manifest.encoder.precision for path, each in bundles.items()}
    contenders = choose_contenders(arguments, precisions)
    with (
        TemporaryDirectory(prefix="llmsrec-compare-") as folder,
        progress_bars() as bars,
    ):
        conditions = Conditions(
            inputs=write_inputs(Path(folder), loaded, prompts),
            checkpoint=arguments.checkpoint.resolve(),
            item_vectors=bundle.catalogue.item_vectors,
            num_users=arguments.users,
            num_rounds=arguments.rounds,
            num_threads=num_threads,
        )
        vectors = forwards.measure(contenders, conditions, bars)
        expected = Expected(
            histories=[as_interactions(bundle, history) for history in histories],
            scores=vectors @ bundle.catalogue.item_vectors.T,  # [P, N]
            row_of_id=bundle.catalogue.row_of_id,
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
        raise MeasureError(
            f"the checkpoint holds {len(loaded.histories)} histories; ask for no more --prompts"
        )
    return loaded.histories[:num_prompts]


def _compare_services(
    arguments: argparse.Namespace,
    precisions: Mapping[Path, str],
    expected: Expected,
    bars: Progress,
) -> list[ServiceRow]:
    if not is_wanted(arguments, PLAIN_SERVICE):
        return []
    with ExitStack() as opened:
        services = [
            opened.enter_context(our_service(path, precision))
            for path, precision in precisions.items()
        ]
        missing = []
        try:
            plain = plain_service(arguments.checkpoint, next(iter(precisions)))
            services.append(opened.enter_context(plain))
        except MeasureError as error:
            missing = [ServiceRow(name=PLAIN_SERVICE, problem=str(error))]
        return [*end_to_end.measure(services, expected, arguments.rounds, bars), *missing]
