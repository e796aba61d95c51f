"""Drives a server at a rate that it cannot slow down, and measures how late its answers come.

The load is open: when each request is sent is fixed before the run, and its latency counts from
that time, so that a stall shows in every request that it delayed.
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
from engine.rpc.wire import decode_request
from llmsrec.files import written_aside
from llmsrec.v1 import recommender_pb2 as pb
from perf.load.arguments import make_settings
from perf.load.environment import describe_environment
from perf.load.errors import LoadError
from perf.load.measure import measure
from perf.load.outcome import Outcome
from perf.load.plan import Plan
from perf.load.report import render_report
from perf.load.result import LoadResult, summarise
from perf.load.search import MIN_REQUESTS, Search, search
from perf.load.settings import Clients, Drawn, Replayed, Settings
from perf.load.summary import describe, explain_void
from perf.load.trace import read_plan
from perf.load.workload import draw_plan
from perf.server_process import serving

VOID_EXIT_CODE = 3
PROBE_SECONDS = 30.0


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a summary, write the files asked for; give the exit code.

    Raises:
        LoadError: nothing could be measured.
        EngineError: the bundle cannot be read, or the server not be asked.
    """
    settings = make_settings(arguments)
    _require_folders([path for path in (arguments.json, arguments.report) if path is not None])
    item_ids = _read_catalogue(arguments)
    plan = _make_plan(settings.load, item_ids)
    with _served(arguments.target) as address:
        answer = _probe(address, plan)
        environment = describe_environment(answer.model_version, answer.catalogue_version)
        if arguments.search:
            found = _search(address, settings, item_ids)
            outcome = Outcome(environment, settings, found.best_result(), found)
        else:
            outcome = Outcome(environment, settings, _measure(address, plan, settings.clients))
    sys.stdout.write("".join(f"{line}\n" for line in describe(outcome)))
    if arguments.json is not None:
        _write(arguments.json, msgspec.json.format(msgspec.json.encode(outcome)))
    if arguments.report is not None:
        _write(arguments.report, render_report(outcome).encode())
    if outcome.is_void():
        sys.stderr.write(f"\n{explain_void(outcome)}\n")
        return VOID_EXIT_CODE
    return 0


def _require_folders(paths: Sequence[Path]) -> None:
    """Find out before the run, not after it, that a file cannot be written."""
    for path in paths:
        if not path.parent.is_dir():
            raise LoadError(f"{path}: there is no folder {path.parent}; make it first")


def _read_catalogue(arguments: argparse.Namespace) -> Sequence[str]:
    """Give the item ids to draw from; a trace needs none."""
    if isinstance(arguments.target, Path) and arguments.bundle is not None:
        raise LoadError("--bundle goes with HOST:PORT; a bundle that is served is drawn from too")
    if arguments.trace is not None:
        return []
    bundle = arguments.target if isinstance(arguments.target, Path) else arguments.bundle
    if bundle is None:
        raise LoadError(
            "histories are drawn from a catalogue: give the server's --bundle, or replay a --trace"
        )
    return open_bundle(bundle).item_ids


def _make_plan(load: Drawn | Replayed, item_ids: Sequence[str]) -> Plan:
    return read_plan(load) if isinstance(load, Replayed) else draw_plan(load, item_ids)


@contextmanager
def _served(target: Path | str) -> Iterator[str]:
    """Give an address as it is; serve a bundle for as long as the measurement lasts."""
    if isinstance(target, str):
        yield target
        return
    with serving(target) as server:
        yield server.address


def _probe(address: str, plan: Plan) -> Recommendation:
    """Ask for the first request's answer, so that what fails always fails before the run."""
    request = decode_request(pb.RecommendRequest.FromString(plan.messages[0]))
    try:
        return recommend(address, request, PROBE_SECONDS)
    except CallFailed as error:
        if error.status != "DEADLINE_EXCEEDED":
            raise
        raise LoadError(
            f"{address} gave the first request no answer in {PROBE_SECONDS:g} s; see its log"
        ) from error


def _search(address: str, settings: Settings, item_ids: Sequence[str]) -> Search:
    load = settings.load
    assert isinstance(load, Drawn)

    def measure_at(rate: float) -> LoadResult:
        duration_s = max(load.pace.duration_s, MIN_REQUESTS / rate)
        pace = msgspec.structs.replace(load.pace, rate=rate, duration_s=duration_s)
        plan = _make_plan(msgspec.structs.replace(load, pace=pace), item_ids)
        return _measure(address, plan, settings.clients)

    return search(measure_at, load.pace.rate)


def _measure(address: str, plan: Plan, clients: Clients) -> LoadResult:
    rate = plan.num_measured() / plan.duration_s
    return summarise(plan, measure(address, plan, clients, f"{rate:.4g} requests/s"), clients)


def _write(path: Path, content: bytes) -> None:
    with written_aside(path) as aside:
        aside.write_bytes(content)
