"""Prepares datasets: `python -m llmsrec prepare SOURCE --output DIR`."""

import argparse

from rich.console import Console
from rich.progress import DownloadColumn

from llmsrec.amazon import SAMPLE_RATE_OF_CATEGORY, AmazonFiles, Selection, load_amazon
from llmsrec.dataset import Dataset
from llmsrec.errors import DataError
from llmsrec.movielens import load_movielens
from llmsrec.progress import progress_bars


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
