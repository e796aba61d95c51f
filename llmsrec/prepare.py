"""Prepares datasets: `python -m llmsrec prepare SOURCE --output DIR`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import DownloadColumn

from llmsrec.amazon import SAMPLE_RATE_OF_CATEGORY, AmazonFiles, Selection, load_amazon
from llmsrec.catalogue import EMPTY_TITLE
from llmsrec.dataset import Dataset
from llmsrec.dataset_files import check_replaceable
from llmsrec.errors import DataError
from llmsrec.files import claimed
from llmsrec.movielens import load_movielens
from llmsrec.progress import progress_bars
from llmsrec.tally import Tally
from llmsrec.timestamps import date_of

_FEW_UNTITLED_PERCENT = 20.0


def run(arguments: argparse.Namespace) -> None:
    check_replaceable(arguments.output)
    tally = Tally()
    with claimed(arguments.output):
        dataset = _load(arguments, tally)
        dataset.save(arguments.output)
    for line in (*tally.lines(), *_describe(dataset, arguments.output)):
        sys.stderr.write(f"{line}\n")


def _load(arguments: argparse.Namespace, tally: Tally) -> Dataset:
    if arguments.source != "amazon":
        return load_movielens(arguments.source, tally=tally)
    files = AmazonFiles(arguments.train, arguments.valid, arguments.test, arguments.metadata)
    sample_rate = arguments.sample_rate or SAMPLE_RATE_OF_CATEGORY.get(arguments.category)
    if sample_rate is None:
        raise DataError(
            f"--category {arguments.category} has no published sample rate; give --sample-rate"
        )
    selection = Selection(sample_rate, arguments.seed, arguments.min_interactions)
    with progress_bars(DownloadColumn()) as bars:
        return load_amazon(arguments.category, files, selection, tally, bars)


def _describe(dataset: Dataset, output: Path) -> Iterator[str]:
    num_untitled = dataset.titles.count(EMPTY_TITLE)
    share = 100 * num_untitled / dataset.num_items
    check = "; see that the metadata is of the same data" if share > _FEW_UNTITLED_PERCENT else ""
    yield (
        f"titles: {num_untitled:,} of {dataset.num_items:,} items ({share:.1f} %) have none and"
        f" are called {EMPTY_TITLE!r}{check}"
    )
    first, last = (date_of(int(end(dataset.timestamps_ms))) for end in (np.min, np.max))
    yield f"dates: {first} to {last} (UTC)"
    yield (
        f"{output}: {dataset.num_users} users, {dataset.num_items} items,"
        f" {len(dataset.item_rows)} interactions"
    )
