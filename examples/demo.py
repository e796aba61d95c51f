"""Starts a server on a bundle, asks it over gRPC for three MovieLens users, and shows the answers.

python examples/demo.py BUNDLE
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine import Interaction, Recommendation, RecommendRequest
from engine.rpc.client import recommend
from llmsrec import terminal
from llmsrec.dataset import Dataset
from llmsrec.movielens import load_movielens

USERS = (0, 100, 500)
NUM_SHOWN = 10


@terminal.command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="a bundle of the MovieLens-100K checkpoint")
    bundle = parser.parse_args().bundle
    console = Console(width=120)
    dataset = load_movielens("ml-100k")
    with serving(bundle) as address:
        console.print(f"\nserving {bundle} on {address}\n")
        for user in USERS:
            history = newest_interactions(dataset, user)
            answer = recommend(address, RecommendRequest(history, k=NUM_SHOWN))
            console.print(make_table(dataset, user, history, answer))
            console.print(describe_timings(answer), end="\n\n")
    items = " ".join(f"--item {film}" for film in (50, 172, 181))
    console.print(
        "Ask for yourself, here with three Star Wars films; in one shell, then in another:\n"
        f"  .venv/bin/python -m engine serve {bundle}\n"
        f"  .venv/bin/python -m engine recommend 127.0.0.1:50051 {items}",
        highlight=False,
    )
    return 0


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """Run a server on a free port of this machine, in a process of its own; give its address."""
    command = [sys.executable, "-m", "engine", "serve", str(bundle), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ready = process.stdout.readline().split() if process.stdout else []
        if not ready:
            sys.exit("error: the server did not start; its message is above")
        try:
            yield ready[1]
        finally:
            process.terminate()  # it answers what it has admitted, and exits


def newest_interactions(dataset: Dataset, user: int) -> list[Interaction]:
    rows, times = dataset.sequence(user)
    ids = [dataset.catalogue[row].id for row in rows.tolist()]
    return [Interaction(*pair) for pair in zip(ids, times.tolist(), strict=True)]


def make_table(
    dataset: Dataset, user: int, history: list[Interaction], answer: Recommendation
) -> Table:
    title_of_id = {item.id: item.title for item in dataset.catalogue}
    table = Table(
        title=f"user {dataset.user_ids[user]}, {len(history)} films seen", title_justify="left"
    )
    table.add_column("the last films seen, newest first", width=50)
    table.add_column("recommended", width=50)
    table.add_column("score", justify="right")
    seen = [title_of_id[interaction.item_id] for interaction in reversed(history[-NUM_SHOWN:])]
    for film, item in zip(seen, answer.items, strict=True):
        table.add_row(film, item.title, f"{item.score:.2f}")
    return table


def describe_timings(answer: Recommendation) -> str:
    timings = answer.timings
    return (
        f"{timings.total_ms:.0f} ms in the server: render {timings.render_ms:.2f},"
        f" queue {timings.queue_ms:.2f}, encode {timings.encode_ms:.0f},"
        f" retrieve {timings.retrieve_ms:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
