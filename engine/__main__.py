"""The command line: serve a bundle, check one, ask a running server."""

import argparse
import asyncio
import contextlib
import logging
import math
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from engine.config import Config, load_config
from engine.errors import EngineError
from engine.live import Live, open_generation
from engine.request import Interaction, Recommendation, RecommendRequest
from engine.rpc.client import recommend
from engine.rpc.server import serve
from engine.upkeep.check import check_bundle
from engine.upkeep.rebuild import rebuild_plan

_TIMESTAMP = re.compile(r"\d+", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

SERVE_EXAMPLE = "example: python -m engine serve bundle --config server.toml --listen 0.0.0.0:50051"
CHECK_EXAMPLE = "example: python -m engine check bundle"
REBUILD_EXAMPLE = """\
A plan serves the library version and the GPUs that it was compiled for. This compiles the graph of
a TensorRT bundle anew, with the library that is installed.

example: python -m engine rebuild bundle --target 8.9"""
RECOMMEND_EXAMPLE = """\
An item is ID, ID@TIMESTAMP_MS or ID@YYYY-MM-DD (midnight UTC). What follows the last @ counts as
the time only if it is one: `me@home` is an id. An id that itself ends so needs a time of its own.

example: python -m engine recommend 127.0.0.1:50051 --item 50@1997-11-22 --item 181 -k 5"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except EngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine", description="Serves LLM-SRec recommenders over gRPC."
    )
    parser.add_argument(
        "--version", action="version", version=f"llmsrec-engine {version('llmsrec-engine')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    serving = add("serve", "answer Recommend calls from a bundle, until SIGTERM", SERVE_EXAMPLE)
    serving.add_argument("bundle", type=Path, metavar="BUNDLE")
    serving.add_argument("--config", type=Path, metavar="FILE.toml", help="default: all defaults")
    serving.add_argument("--listen", metavar="HOST:PORT", help="overrides server.listen")
    serving.set_defaults(run=run_serve)

    checking = add("check", "verify a bundle", CHECK_EXAMPLE)
    checking.add_argument("bundle", type=Path, metavar="BUNDLE")
    checking.set_defaults(run=run_check)

    rebuilding = add("rebuild", "compile a bundle's TensorRT plan anew", REBUILD_EXAMPLE)
    rebuilding.add_argument("bundle", type=Path, metavar="BUNDLE")
    rebuilding.add_argument(
        "--target",
        dest="targets",
        action="append",
        default=[],
        metavar="CAPABILITY",
        help="compute capability to compile for, repeatable; default: as before",
    )
    rebuilding.set_defaults(run=run_rebuild)

    asking = add("recommend", "ask a running server", RECOMMEND_EXAMPLE)
    asking.add_argument("address", metavar="HOST:PORT")
    asking.add_argument(
        "--item",
        dest="history",
        action="append",
        required=True,
        type=parse_interaction,
        metavar="ID[@TIME]",
        help="one interaction; repeat it, oldest first",
    )
    asking.add_argument("-k", type=int, default=10, help="how many items to return (default: 10)")
    asking.add_argument("--include-seen", action="store_true", help="allow items of the history")
    asking.add_argument("--exclude", action="append", default=[], metavar="ID", help="repeatable")
    asking.add_argument(
        "--timeout", type=parse_timeout, default=5.0, metavar="SECONDS", help="default: 5"
    )
    asking.set_defaults(run=run_recommend)
    return parser


def parse_interaction(text: str) -> Interaction:
    """Split `ID[@TIME]` at its last @ where a time follows it."""
    item_id, _, time = text.rpartition("@")
    timestamp_ms = parse_time(time) if item_id else None
    if timestamp_ms is None:
        item_id = text
    if not item_id:
        raise argparse.ArgumentTypeError("an item id is empty")
    return Interaction(item_id, timestamp_ms)


def parse_time(text: str) -> int | None:
    """Read milliseconds since 1970 or a UTC date; None where the text is neither."""
    if _TIMESTAMP.fullmatch(text):
        return int(text)
    if not _DATE.fullmatch(text):
        return None
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        return None


def parse_timeout(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")


def run_serve(options: argparse.Namespace) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    config = make_config(options.config, options.listen)
    with contextlib.closing(Live(open_generation(options.bundle, config))) as live:
        asyncio.run(serve(live, config))


def make_config(path: Path | None, listen: str | None) -> Config:
    """Read the file, if any; `listen` overrides its server.listen."""
    config = Config() if path is None else load_config(path)
    if listen is None:
        return config
    server = msgspec.structs.replace(config.server, listen=listen)
    return msgspec.structs.replace(config, server=server)


def run_check(options: argparse.Namespace) -> None:
    _write(check_bundle(options.bundle))


def run_rebuild(options: argparse.Namespace) -> None:
    plan = rebuild_plan(options.bundle, options.targets, report_step)
    _write([f"plan       {plan.file}, by {plan.library} {plan.library_version}"])


def report_step(phase: str, num_done: int, num_steps: int) -> None:
    sys.stderr.write(f"TensorRT: {phase}, {num_done} of {num_steps} steps\n")


def run_recommend(options: argparse.Namespace) -> None:
    request = RecommendRequest(
        history=options.history,
        k=options.k,
        include_seen=options.include_seen,
        excluded_item_ids=options.exclude,
    )
    answer = recommend(options.address, request, timeout_s=options.timeout)
    _write(describe(answer, len(request.history)))


def describe(answer: Recommendation, num_interactions: int) -> list[str]:
    """Lay an answer out as lines: the ranking, timings, versions and what was ignored."""
    width = max([len("id"), *(len(item.item_id) for item in answer.items)])
    lines = [f"rank     score  {'id':<{width}}  title"]
    for rank, item in enumerate(answer.items, start=1):
        lines.append(f"{rank:>4}  {item.score:>8.4f}  {item.item_id:<{width}}  {item.title}")
    timings = answer.timings
    lines += [
        "",
        f"render {timings.render_ms:.2f} ms, queue {timings.queue_ms:.2f} ms, "
        f"encode {timings.encode_ms:.2f} ms, retrieve {timings.retrieve_ms:.2f} ms, "
        f"total {timings.total_ms:.2f} ms",
        f"model {answer.model_version}, catalogue {answer.catalogue_version}",
        f"used {answer.num_used_interactions} of {num_interactions} interactions",
    ]
    if (batch := answer.micro_batch) is not None:
        lines.append(
            f"prompt of {answer.num_prompt_tokens} tokens, one of {batch.num_prompts} encoded"
            f" together, the longest of {batch.longest_prompt_tokens} tokens"
        )
    lines += [f"ignored {i.index}: {i.item_id} ({i.reason.value})" for i in answer.ignored]
    num_unlisted = num_interactions - answer.num_used_interactions - len(answer.ignored)
    return [*lines, f"ignored {num_unlisted} more"] if num_unlisted > 0 else lines


def _write(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
