"""Drives a server at a rate that it cannot slow down, and measures how late its answers come.

The load is open: when each request is sent is fixed before the run, and its latency counts from
that time, so that a stall shows in every request that it delayed. Where the bundle is at hand,
answers of the run are compared with those that it gives without a server.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine import Recommendation
from engine.bundle.opened import open_bundle
from engine.errors import CallFailed
from engine.rpc.client import recommend
from perf.engine_access import read_message
from perf.environment import describe_environment
from perf.errors import MeasureError
from perf.load.check import check_answers, choose
from perf.load.client import SentRequest
from perf.load.drawn import draw_schedule
from perf.load.measure import measure
from perf.load.options import LoadOptions, add_arguments, make_options
from perf.load.outcome import Outcome
from perf.load.report import render_report
from perf.load.result import LoadResult, summarise
from perf.load.schedule import Schedule
from perf.load.search import MIN_REQUESTS, search
from perf.load.summary import describe, explain_void
from perf.load.trace import read_trace
from perf.output_files import require_folders, write_file
from perf.server_process import serving

__all__ = ["EXAMPLES", "add_arguments", "run"]

VOID_EXIT_CODE = 3
PROBE_SECONDS = 30.0
EXAMPLES = """\
examples:
  python -m perf load demo/bundle --rate 2 --duration 60 --report load.html
  python -m perf load 10.0.0.7:50051 --bundle demo/bundle --rate 200 --overload 10+5x3
  python -m perf load demo/bundle --rate 2 --search --objective-ms 800 --json search.json
  python -m perf load 10.0.0.7:50051 --trace monday.jsonl --deadline-ms 2000

exit code: 0; 1 where nothing could be measured or an answer was wrong; 3 where the run is void,
because the clients sent less than 99 % of the target rate"""


def run(arguments: argparse.Namespace) -> int:
    """Measure, check, print a summary, write the files asked for; give the exit code.

    Raises:
        MeasureError: nothing could be measured, or an answer was wrong.
        EngineError: the bundle cannot be read, or the server not be asked.
    """
    options = make_options(arguments)
    require_folders(arguments.json, arguments.report)
    bundle = _find_bundle(arguments)
    item_ids = open_bundle(bundle).catalogue.item_ids if bundle and not options.trace else []
    schedule = _lay_out(options, item_ids)
    to_check: list[SentRequest] = []
    with _served(arguments.target) as address:
        answer = _probe(address, schedule)
        environment = describe_environment(answer.model_version, answer.catalogue_version)
        if arguments.search:

            def measure_at(rate: float) -> LoadResult:
                duration_s = max(options.duration_s, MIN_REQUESTS / rate)
                tried = msgspec.structs.replace(options, rate=rate, duration_s=duration_s)
                return _measure(address, _lay_out(tried, item_ids), tried, to_check)

            found = search(measure_at, options.rate)
            result = found.best_result()
        else:
            found, result = None, _measure(address, schedule, options, to_check)
    checked = check_answers(bundle, to_check)
    return _report(arguments, Outcome(environment, options, result, checked, found))


def _report(arguments: argparse.Namespace, outcome: Outcome) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in describe(outcome)))
    if arguments.json is not None:
        write_file(arguments.json, msgspec.json.format(msgspec.json.encode(outcome)))
    if arguments.report is not None:
        write_file(arguments.report, render_report(outcome).encode())
    if outcome.is_void():
        sys.stderr.write(f"\n{explain_void(outcome)}\n")
        return VOID_EXIT_CODE
    return 0


def _find_bundle(arguments: argparse.Namespace) -> Path | None:
    target, bundle = arguments.target, arguments.bundle
    if isinstance(target, Path):
        if bundle is not None:
            raise MeasureError(
                "--bundle goes with HOST:PORT; a bundle that is served is drawn from too"
            )
        return target
    if bundle is None and arguments.trace is None:
        raise MeasureError(
            "histories are drawn from a catalogue: give the server's --bundle, or replay a --trace"
        )
    found: Path | None = bundle
    return found


def _lay_out(options: LoadOptions, item_ids: Sequence[str]) -> Schedule:
    if options.trace is not None:
        return read_trace(Path(options.trace), options.warm_up_s)
    return draw_schedule(options, item_ids)


@contextmanager
def _served(target: Path | str) -> Iterator[str]:
    """Give an address as it is; serve a bundle for as long as the measurement lasts."""
    if isinstance(target, str):
        yield target
        return
    with serving(target) as server:
        yield server.address


def _probe(address: str, schedule: Schedule) -> Recommendation:
    """Ask for the first request's answer, so that what fails always fails before the run."""
    try:
        return recommend(address, read_message(schedule.messages[0]), PROBE_SECONDS)
    except CallFailed as error:
        if error.status != "DEADLINE_EXCEEDED":
            raise
        raise MeasureError(
            f"{address} gave the first request no answer in {PROBE_SECONDS:g} s; see its log"
        ) from error


def _measure(
    address: str, schedule: Schedule, options: LoadOptions, to_check: list[SentRequest]
) -> LoadResult:
    sent = measure(address, schedule, options)
    to_check += choose(sent)
    return summarise(schedule, sent, options)
