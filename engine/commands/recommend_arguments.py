"""What the command `recommend` takes; help waits for nothing that a call needs."""

import argparse
import contextlib
import re

from engine.commands.interaction import parse_interaction, parse_item_id

MAX_TIMEOUT_S = 86_400
"""A day; gRPC takes a deadline that lies centuries ahead for one that has passed."""

EXAMPLE = """\
The server is HOST:PORT or unix:/path/of/socket. One on this machine is never asked through a proxy.

An item is ID, ID@TIMESTAMP_MS or ID@YYYY-MM-DD (midnight UTC). What follows the last @ is the time
if it is one, and part of the id if it does not look like one: `me@home` is an id. What looks like a
time but is none (a day that no month has, seconds since 1970, 1997-1-2) is refused. An id that
itself ends so needs a time of its own.

example: python -m engine recommend 127.0.0.1:50051 --item 50@1997-11-22 --item 181 -k 5"""

_WHOLE_NUMBER = re.compile(r"-?\d{1,1000}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("address", metavar="HOST:PORT", help="or unix:/path/of/socket")
    add(
        "--item",
        dest="history",
        action="append",
        required=True,
        type=parse_interaction,
        metavar="ID[@TIME]",
        help="one interaction; repeat it, oldest first",
    )
    summary = "how many items to return (default: 10, or all where there are fewer)"
    add("-k", type=parse_whole_number, metavar="K", help=summary)
    add("--include-seen", action="store_true", help="allow items of the history")
    summary = "item never to return, repeatable"
    add("--exclude", action="append", default=[], type=parse_item_id, metavar="ID", help=summary)
    add("--timeout", type=parse_timeout, default=5.0, metavar="SECONDS", help="default: 5")


def parse_whole_number(text: str) -> int:
    if _WHOLE_NUMBER.fullmatch(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


def parse_timeout(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= MAX_TIMEOUT_S:
            return seconds
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of seconds above 0 and up to {MAX_TIMEOUT_S}"
    )
