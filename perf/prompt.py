"""Times the rendering of prompts from fragments beside tokenising their text.

Both give the same tokens and slots, which is checked for every history before any time is taken.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from engine.bundle.opened import TOKENIZER_FILE, open_bundle
from engine.prompts.join import render
from llmsrec.prompt import MAX_INTERACTIONS
from llmsrec.tokens import PromptTokenizer, PromptWriter

_START_MS = 1_700_000_000_000
_MS_PER_DAY = 86_400_000

History = tuple[list[int], list[int | None]]


class Result(msgspec.Struct, frozen=True):
    num_prompts: int
    mean_tokens: float
    fragments_us: float
    """Per prompt."""
    tokenizing_us: float
    fragments_over_tokenizing: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompts", type=int, default=1000, help="random full histories")


def run(arguments: argparse.Namespace) -> Result:
    bundle = open_bundle(arguments.bundle)
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER_FILE))
    writer = PromptWriter(PromptTokenizer(tokenizer), bundle.titles)
    rng = np.random.default_rng(0)
    histories = [_draw(rng, len(bundle.item_ids)) for _ in range(arguments.prompts)]
    lengths = []
    for history in histories:
        rendered, _ = render(bundle.fragments, *history)
        token_ids, slot_ids = writer.user(*history)
        np.testing.assert_array_equal(rendered.token_ids, token_ids)
        np.testing.assert_array_equal(rendered.slot_ids, slot_ids)
        lengths.append(len(rendered))
    ours = _mean_us(histories, lambda history: render(bundle.fragments, *history))
    theirs = _mean_us(histories, lambda history: writer.user(*history))
    return Result(arguments.prompts, float(np.mean(lengths)), ours, theirs, ours / theirs)


def _draw(rng: np.random.Generator, num_items: int) -> History:
    rows = rng.integers(num_items, size=MAX_INTERACTIONS).tolist()
    days = np.sort(rng.integers(365, size=MAX_INTERACTIONS)).tolist()
    return rows, [_START_MS + day * _MS_PER_DAY for day in days]


def _mean_us(histories: list[History], call: Callable[[History], object]) -> float:
    started = time.perf_counter()
    for history in histories:
        call(history)
    return (time.perf_counter() - started) / len(histories) * 1e6
