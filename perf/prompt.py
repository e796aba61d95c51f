"""Times the rendering of prompts from fragments beside tokenising their text.

What is timed of both must be the same tokens and slots.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from engine.bundle.opened import TOKENIZER_FILE, open_bundle
from llmsrec.encoding import History
from llmsrec.prompt import MAX_INTERACTIONS
from llmsrec.tokens import PromptArrays, PromptTokenizer, PromptWriter
from perf.command_line import count
from perf.engine_access import render_history
from perf.errors import WrongAnswer
from perf.timing import Timed, time_calls

_START_MS = 1_700_000_000_000
_MS_PER_DAY = 86_400_000


class RenderingTimes(msgspec.Struct, frozen=True):
    num_prompts: int
    mean_tokens: float
    fragments_us: float
    """The time of one prompt."""
    tokenizing_us: float
    fragments_over_tokenizing: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="whose titles and tokenizer to take")
    parser.add_argument("--prompts", type=count, default=1000, help="random full histories")


def run(arguments: argparse.Namespace) -> RenderingTimes:
    bundle = open_bundle(arguments.bundle)
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER_FILE))
    writer = PromptWriter(PromptTokenizer(tokenizer), bundle.catalogue.titles)
    rng = np.random.default_rng(0)
    histories = [_draw(rng, len(bundle.catalogue.item_ids)) for _ in range(arguments.prompts)]
    expected = [writer.user(*history) for history in histories]
    ours = Timed(
        lambda: [render_history(bundle, history) for history in histories],
        lambda prompts: require_equal(
            [(prompt.token_ids, prompt.slot_ids) for prompt in prompts], expected
        ),
    )
    theirs = Timed(
        lambda: [writer.user(*history) for history in histories],
        partial(require_equal, expected=expected),
    )
    ours_us, theirs_us = (time_calls(each, 1)[0] * 1e3 / len(histories) for each in (ours, theirs))
    mean_tokens = float(np.mean([len(token_ids) for token_ids, _ in expected]))
    return RenderingTimes(len(histories), mean_tokens, ours_us, theirs_us, ours_us / theirs_us)


def require_equal(found: Sequence[PromptArrays], expected: Sequence[PromptArrays]) -> None:
    """Hold prompts to their tokens and slots.

    Raises:
        WrongAnswer: naming the first prompt that has others.
    """
    for number, (prompt, right) in enumerate(zip(found, expected, strict=True)):
        if not all(map(np.array_equal, prompt, right)):
            raise WrongAnswer(
                f"prompt {number} was rendered to other tokens or slots while it was timed; no time"
                " counts"
            )


def _draw(rng: np.random.Generator, num_items: int) -> History:
    rows = rng.integers(num_items, size=MAX_INTERACTIONS).tolist()
    days = np.sort(rng.integers(365, size=MAX_INTERACTIONS)).tolist()
    return rows, [_START_MS + day * _MS_PER_DAY for day in days]
