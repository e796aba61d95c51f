"""What a load consists of, and the flags that say so."""

import argparse
import re
from pathlib import Path
from typing import Literal, get_args

import msgspec

from engine.errors import ConfigError
from engine.rpc.target import parse_target as parse_address
from perf.command_line import count, not_negative, positive, share
from perf.errors import MeasureError

Arrivals = Literal["poisson", "constant"]

_NUMBER = r"\d+(?:\.\d+)?"
_OVERLOAD = re.compile(rf"({_NUMBER})\+({_NUMBER})x({_NUMBER})", re.ASCII)
_LENGTHS = re.compile(rf"(\d+)-(\d+)=({_NUMBER})", re.ASCII)


class Overload(msgspec.Struct, frozen=True):
    """A part of the measured time at a multiple of the rate."""

    start_s: float
    duration_s: float
    factor: float


class Lengths(msgspec.Struct, frozen=True):
    """Histories of `shortest` to `longest` interactions, each length as likely as the next."""

    shortest: int
    longest: int
    weight: float


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A load that is drawn at random, the same for the same seed and catalogue; or a trace's."""

    rate: float = 0.0
    """Requests per second outside overloads; 0 where a trace says when to send."""
    trace: str | None = None
    warm_up_s: float = 5.0
    """The beginning, which is sent but not measured."""
    duration_s: float = 30.0
    """The measured time, which follows the warm-up."""
    arrivals: Arrivals = "poisson"
    overloads: tuple[Overload, ...] = ()
    lengths: tuple[Lengths, ...] = (Lengths(1, 5, 0.2), Lengths(6, 20, 0.5), Lengths(21, 100, 0.3))
    zipf_exponent: float = 1.0
    """How much more often popular items occur; 0 makes all items alike."""
    repeat_share: float = 0.2
    """The share of requests that bring an earlier user's history again."""
    k: int | None = None
    """How many items each request asks for; None leaves it to the server."""
    seed: int = 0
    num_processes: int = 2
    deadline_ms: float = 10_000.0
    objective_ms: float = 500.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = LoadOptions()
    add = parser.add_argument
    add("target", type=parse_target, metavar="BUNDLE|ADDR", help="what to serve, or HOST:PORT")
    add("--bundle", type=Path, help="what ADDR serves: draws from its catalogue, checks answers")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rate", type=positive, metavar="R", help="requests per second")
    source.add_argument("--trace", metavar="FILE", help="replay these requests (JSON lines)")
    summary = "find the highest rate that meets the objective at p99, from --rate on"
    add("--search", action="store_true", help=summary)
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    add("--report", type=Path, metavar="FILE.html", help="where to draw them")
    summary = "sent, but not measured"
    add("--warm-up", dest="warm_up_s", type=not_negative, metavar="S", help=summary)

    add = parser.add_argument_group("requests, where no trace gives them").add_argument
    add("--duration", dest="duration_s", type=positive, metavar="S", help="what is measured")
    add("--arrivals", choices=get_args(Arrivals), help="at random or evenly spaced")
    summary = "FACTOR times the rate for S seconds from second START of the measured time on"
    metavar = "START+SxFACTOR,…"
    add("--overload", dest="overloads", type=parse_overloads, metavar=metavar, help=summary)
    summary = "lengths of the histories and their weights"
    add("--lengths", type=parse_lengths, metavar="A-B=W,…", help=summary)
    summary = "popularity falls with rank^-EXPONENT"
    add("--zipf", dest="zipf_exponent", type=not_negative, metavar="EXPONENT", help=summary)
    add("--repeat-share", type=share, metavar="SHARE", help="of users who were there before")
    add("-k", type=count, help="items to ask for, or as many as the server gives")
    add("--seed", type=int, help="of all that is drawn")

    add = parser.add_argument_group("clients").add_argument
    add("--processes", dest="num_processes", type=count, metavar="P", help="that send")
    add("--deadline-ms", type=positive, metavar="D", help="when a client gives up")
    add("--objective-ms", type=positive, metavar="D", help="an answer within it counts as good")
    defaults = msgspec.structs.asdict(usual)
    parser.set_defaults(**{name: defaults[name] for name in defaults if name != "rate"})


_DRAWING = {
    "--duration": "duration_s",
    "--arrivals": "arrivals",
    "--overload": "overloads",
    "--lengths": "lengths",
    "--zipf": "zipf_exponent",
    "--repeat-share": "repeat_share",
    "-k": "k",
    "--seed": "seed",
}


def make_options(arguments: argparse.Namespace) -> LoadOptions:
    """Put the flags together.

    Raises:
        MeasureError: one of them does not go with a trace.
    """
    given = {name: getattr(arguments, name) for name in LoadOptions.__struct_fields__}
    if arguments.trace is None:
        return LoadOptions(**given)
    options, usual = LoadOptions(**given | {"rate": 0.0}), LoadOptions()
    needless = [flag for flag, name in _DRAWING.items() if given[name] != getattr(usual, name)]
    if arguments.search:
        needless.append("--search")
    if needless:
        raise MeasureError(
            f"--trace says what is sent and when; leave out {', '.join(needless)}, or draw the"
            " requests with --rate"
        )
    return options


def parse_target(text: str) -> Path | str:
    """Give the folder of a bundle as a path, or an address as a string."""
    if Path(text).is_dir():
        return Path(text)
    try:
        return parse_address(text).name
    except ConfigError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither the folder of a bundle nor an address: {error}"
        ) from error


def parse_overloads(text: str) -> tuple[Overload, ...]:
    return tuple(map(_parse_overload, text.split(",")))


def _parse_overload(text: str) -> Overload:
    if parts := _OVERLOAD.fullmatch(text):
        overload = Overload(*map(float, parts.groups()))
        if overload.duration_s > 0 and overload.factor > 0:
            return overload
    raise argparse.ArgumentTypeError(
        f"{text!r} is not START+SECONDSxFACTOR, such as 10+5x3: from second 10, for 5 s, 3 x"
    )


def parse_lengths(text: str) -> tuple[Lengths, ...]:
    return tuple(map(_parse_length, text.split(",")))


def _parse_length(text: str) -> Lengths:
    if parts := _LENGTHS.fullmatch(text):
        lengths = Lengths(int(parts[1]), int(parts[2]), float(parts[3]))
        if 1 <= lengths.shortest <= lengths.longest and lengths.weight > 0:
            return lengths
    raise argparse.ArgumentTypeError(
        f"{text!r} is not SHORTEST-LONGEST=WEIGHT, such as 6-20=0.5 (from 1 on, weight above 0)"
    )
