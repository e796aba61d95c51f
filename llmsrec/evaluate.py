"""Measures a checkpoint by leave-last-out ranking, beside the baselines a reader asks for."""

import argparse
import sys
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmsrec import baselines, checkpoint, metrics
from llmsrec.checkpoint import Checkpoint
from llmsrec.dataset import Dataset
from llmsrec.encoding import History, as_history, encode_items, encode_users
from llmsrec.files import written_aside
from llmsrec.metrics import Scores
from llmsrec.progress import progress_bars
from llmsrec.prompt import MAX_INTERACTIONS
from llmsrec.segments.encoding import SegmentsEncoder
from llmsrec.tokens import PromptTokenizer, PromptWriter
from llmsrec.train import DTYPES

CUTOFFS = (10, 20)
Metrics = dict[str, float]
Encode = Callable[
    [Sequence[Sequence[History]]], tuple[NDArray[np.float32], Sequence[NDArray[np.float32]]]
]
"""Gives item vectors `[N, D]`, and the user vectors `[U, D]` of each list of histories."""


def rank_all(dataset: Dataset, scores: Scores) -> Metrics:
    """Rank each test target among its saved negatives, and among all items not seen before."""
    users = np.arange(dataset.num_users)[:, None]
    sampled = metrics.ranks_of_first(scores[users, dataset.test_candidates()])
    unseen = scores.copy()
    for user in range(dataset.num_users):
        unseen[user, dataset.test_history(user)[0]] = -np.inf
    unseen[users[:, 0], dataset.test_targets] = scores[users[:, 0], dataset.test_targets]
    full = metrics.rank_of_target(unseen, dataset.test_targets)
    measured = {}
    for kind, ranks in (("", sampled), ("full_", full)):
        for k in CUTOFFS:
            measured[f"{kind}ndcg@{k}"] = metrics.ndcg(ranks, k)
            measured[f"{kind}hr@{k}"] = metrics.hit_rate(ranks, k)
    return measured


def shuffle_windows(histories: Sequence[History], seed: int = 0) -> list[History]:
    """Shuffle the items of each history; the dates stay where they are."""
    rng = np.random.default_rng(seed)
    return [
        ([rows[place] for place in rng.permutation(len(rows))], times) for rows, times in histories
    ]


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the cosine of each pair of rows of two `[U, D]`."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    similarity: NDArray[np.float32] = np.einsum("ud,ud->u", first, second) / lengths
    return similarity


def evaluate(dataset: Dataset, window: int, encode: Encode) -> dict[str, Metrics]:
    """Measure the model, the baselines, and what shuffling the window does to the model."""
    histories = [
        as_history(dataset.test_history(user), window) for user in range(dataset.num_users)
    ]
    items, (users, shuffled) = encode([histories, shuffle_windows(histories)])
    similarity = cosine(users, shuffled)
    return {
        "llm-srec": rank_all(dataset, users @ items.T),
        "llm-srec, shuffled": {
            **rank_all(dataset, shuffled @ items.T),
            "cosine_mean": float(similarity.mean()),
            "cosine_min": float(similarity.min()),
        },
        "popularity": rank_all(dataset, baselines.popularity(dataset)),
        "co-occurrence": rank_all(dataset, baselines.co_occurrence(dataset)),
    }


def make_encoder(loaded: Checkpoint, dtype: torch.dtype, bars: Progress) -> tuple[int, Encode]:
    """Load a checkpoint's model; give the window that it reads, and what encodes with it."""
    num_items = len(loaded.catalogue)
    shape = loaded.config.segments
    if shape is not None:
        segments, titles = loaded.load_segments(dtype, shape, bars)
        encoder = SegmentsEncoder(segments, titles, shape.window)
        return shape.window, lambda several: encoder.encode(
            num_items, [[rows for rows, _ in histories] for histories in several], bars
        )
    model, tokenizer = loaded.load_model(dtype)
    if torch.cuda.is_available():
        model.cuda()
    writer = PromptWriter(PromptTokenizer(tokenizer), loaded.titles)
    return MAX_INTERACTIONS, lambda several: (
        encode_items(model, writer, num_items, bars),
        [encode_users(model, writer, histories, bars) for histories in several],
    )


def run(arguments: argparse.Namespace) -> None:
    dataset = Dataset.load(arguments.dataset)
    loaded = checkpoint.load(arguments.checkpoint)
    loaded.require_catalogue_of(dataset)
    with progress_bars() as bars:
        window, encode = make_encoder(loaded, DTYPES[arguments.precision], bars)
        measured = evaluate(dataset, window, encode)
    Console(file=sys.stdout).print(_table(measured))
    if arguments.write:
        config = msgspec.structs.replace(
            loaded.config, metrics={**loaded.config.metrics, **measured}
        )
        path = arguments.checkpoint / "config.json"
        with written_aside(path) as aside:
            aside.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")


def _table(measured: dict[str, Metrics]) -> Table:
    table = Table("", *measured, title="Test targets, 99 saved negatives and full ranking")
    for name in measured["llm-srec"]:
        table.add_row(name, *(f"{values[name]:.3f}" for values in measured.values()))
    shuffled = measured["llm-srec, shuffled"]
    table.caption = (
        f"cosine of original and shuffled window: mean {shuffled['cosine_mean']:.3f},"
        f" min {shuffled['cosine_min']:.3f}"
    )
    return table
