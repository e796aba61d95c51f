"""The flags of a load measurement, and the settings that they make."""

import argparse
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec

from perf.load.errors import LoadError
from perf.load.settings import (
    Arrivals,
    Clients,
    Drawn,
    Lengths,
    Mix,
    Overload,
    Pace,
    Replayed,
    Settings,
)

_ADDRESS = re.compile(r".+:\d+", re.ASCII)
_NUMBER = r"\d+(?:\.\d+)?"
_OVERLOAD = re.compile(rf"({_NUMBER})\+({_NUMBER})x({_NUMBER})", re.ASCII)
_LENGTHS = re.compile(rf"(\d+)-(\d+)=({_NUMBER})", re.ASCII)

_NOT_WITH_TRACE = {
    "search": "--search",
    "duration_s": "--duration",
    "arrivals": "--arrivals",
    "overloads": "--overload",
    "lengths": "--lengths",
    "zipf_exponent": "--zipf",
    "repeat_share": "--repeat-share",
    "k": "-k",
    "seed": "--seed",
}

EXAMPLES = """\
examples:
  python -m perf load demo/bundle --rate 2 --duration 60 --report load.html
  python -m perf load 10.0.0.7:50051 --bundle demo/bundle --rate 200 --overload 10+5x3
  python -m perf load demo/bundle --rate 2 --search --objective-ms 800 --json search.json
  python -m perf load 10.0.0.7:50051 --trace monday.jsonl --deadline-ms 2000

exit code: 0; 1 where nothing could be measured; 3 where the run is void, because the clients
sent less than 99 % of the target rate"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pace, mix, clients = Pace(rate=1.0), Mix(), Clients()
    add = parser.add_argument
    add("target", type=parse_target, metavar="BUNDLE|ADDR", help="what to serve, or HOST:PORT")
    add("--bundle", type=Path, help="whose catalogue to draw from, where ADDR is given")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rate", type=parse_positive, metavar="R", help="requests per second")
    source.add_argument("--trace", metavar="FILE", help="replay these requests (JSON lines)")
    summary = "find the highest rate that meets the objective at p99, from --rate on"
    add("--search", action="store_true", help=summary)
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    add("--report", type=Path, metavar="FILE.html", help="where to draw them")
    summary = f"sent, but not measured (default: {pace.warm_up_s:g})"
    add("--warm-up", dest="warm_up_s", type=parse_not_negative, metavar="S", help=summary)

    add = parser.add_argument_group("requests, where no trace gives them").add_argument
    summary = f"what is measured (default: {pace.duration_s:g})"
    add("--duration", dest="duration_s", type=parse_positive, metavar="S", help=summary)
    add("--arrivals", choices=get_args(Arrivals), help=f"default: {pace.arrivals}")
    summary = "FACTOR times the rate for S seconds from second START of the measured time on"
    metavar = "START+SxFACTOR,…"
    add("--overload", dest="overloads", type=parse_overloads, metavar=metavar, help=summary)
    lengths = ",".join(f"{each.shortest}-{each.longest}={each.weight:g}" for each in mix.lengths)
    summary = f"lengths of the histories and their weights (default: {lengths})"
    add("--lengths", type=parse_lengths, metavar="A-B=W,…", help=summary)
    summary = f"popularity falls with rank^-EXPONENT (default: {mix.zipf_exponent:g})"
    add("--zipf", dest="zipf_exponent", type=parse_not_negative, metavar="EXPONENT", help=summary)
    summary = f"requests that repeat an earlier history (default: {mix.repeat_share:g})"
    add("--repeat-share", type=parse_share, metavar="SHARE", help=summary)
    add("-k", type=parse_count, help=f"items to ask for (default: {mix.k})")
    add("--seed", type=int, help="default: 0")

    add = parser.add_argument_group("clients").add_argument
    summary = f"that send (default: {clients.num_processes})"
    add("--processes", dest="num_processes", type=parse_count, metavar="P", help=summary)
    summary = f"when a client gives up (default: {clients.deadline_ms:g})"
    add("--deadline-ms", type=parse_positive, metavar="D", help=summary)
    summary = f"an answer within it counts as good (default: {clients.objective_ms:g})"
    add("--objective-ms", type=parse_positive, metavar="D", help=summary)


def make_settings(arguments: argparse.Namespace) -> Settings:
    """Put the flags together.

    Raises:
        LoadError: one of them does not go with a trace.
    """
    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and value is not False
    }
    clients = Clients(**_pick(given, Clients))
    if arguments.trace is None:
        pace, mix = Pace(**_pick(given, Pace)), Mix(**_pick(given, Mix))
        return Settings(load=Drawn(pace=pace, mix=mix, **_pick(given, Drawn)), clients=clients)
    needless = [flag for name, flag in _NOT_WITH_TRACE.items() if name in given]
    if needless:
        raise LoadError(
            f"--trace says what is sent and when; leave out {', '.join(needless)}, or draw the"
            " requests with --rate"
        )
    return Settings(load=Replayed(**_pick(given, Replayed)), clients=clients)


def _pick(given: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: given[name] for name in struct.__struct_fields__ if name in given}


def parse_target(text: str) -> Path | str:
    """Give the folder of a bundle as a path, or an address as a string."""
    if Path(text).is_dir():
        return Path(text)
    if _ADDRESS.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is neither the folder of a bundle nor HOST:PORT")


def parse_overloads(text: str) -> tuple[Overload, ...]:
    return tuple(_parse_overload(part) for part in text.split(","))


def _parse_overload(text: str) -> Overload:
    parts = _OVERLOAD.fullmatch(text)
    if parts is None or not all(float(part) > 0 for part in parts.groups()[1:]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not START+SECONDSxFACTOR, such as 10+5x3: from second 10, for 5 s, 3 x"
        )
    return Overload(*map(float, parts.groups()))


def parse_lengths(text: str) -> tuple[Lengths, ...]:
    return tuple(_parse_length(part) for part in text.split(","))


def _parse_length(text: str) -> Lengths:
    parts = _LENGTHS.fullmatch(text)
    if parts is not None:
        lengths = Lengths(int(parts[1]), int(parts[2]), float(parts[3]))
        if 1 <= lengths.shortest <= lengths.longest and lengths.weight > 0:
            return lengths
    raise argparse.ArgumentTypeError(
        f"{text!r} is not SHORTEST-LONGEST=WEIGHT, such as 6-20=0.5 (from 1 on, weight above 0)"
    )


def parse_positive(text: str) -> float:
    return _parse_number(text, lambda number: 0 < number < math.inf, "a number above 0")


def parse_not_negative(text: str) -> float:
    return _parse_number(text, lambda number: 0 <= number < math.inf, "a number from 0 on")


def parse_share(text: str) -> float:
    return _parse_number(text, lambda number: 0 <= number <= 1, "a share between 0 and 1")


def parse_count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def _parse_number(text: str, is_valid: Callable[[float], bool], expected: str) -> float:
    with suppress(ValueError):
        if is_valid(number := float(text)):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
