"""Tokenises the pieces of all user prompts, and proves that joining them changes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import TypeVar

from rich.progress import Progress

from engine.prompts.fragments import Fragments, Ragged
from export.errors import BuildError
from llmsrec import prompt
from llmsrec.tokens import PromptTokenizer

T = TypeVar("T")
Place = tuple[int, int | None]
"""The number and the timestamp in milliseconds that a title follows."""

_BATCH_SIZE = 4096
_NUMBERS = range(1, prompt.MAX_INTERACTIONS + 1)
_DATES_TO_PROVE = (None, *(day * prompt.MS_PER_DAY for day in range(10)))
"""A missing date, and dates that end in each digit: all that a title can follow."""
_PLACES_TO_PROVE = (
    (1, None),
    (prompt.MAX_INTERACTIONS, prompt.MAX_TIMESTAMP_MS),
    *((2, time_ms) for time_ms in _DATES_TO_PROVE),
)


def build_fragments(tokenizer: PromptTokenizer, titles: Sequence[str], bars: Progress) -> Fragments:
    """Tokenise every piece in its context, then compare joins of them with whole texts.

    Raises:
        BuildError: this tokenizer merges across the seams between pieces.
    """
    clipped = [tokenizer.clip(title, prompt.MAX_CLIPPED_TITLE_TOKENS) for title in titles]
    numbers = [prompt.number_piece(number) for number in _NUMBERS]
    dates = prompt.date_pieces()
    before_date, before_title = numbers[1], numbers[1] + dates[0]
    number_ids = [*tokenizer.opening_ids(numbers[:1]), *tokenizer.inner_ids(numbers[1:])]
    full, short = (map(prompt.title_piece, some) for some in (titles, clipped))
    fragments = Fragments(
        numbers=Ragged.pack(number_ids),
        dates=Ragged.pack(_tokenise_after(before_date, dates, tokenizer)),
        titles=Ragged.pack(_tokenise_after(before_title, full, tokenizer)),
        clipped_titles=Ragged.pack(_tokenise_after(before_title, short, tokenizer)),
        closing=Ragged.pack(tokenizer.inner_ids([prompt.closing_piece()])),
    )
    for place in product(_NUMBERS, _DATES_TO_PROVE):
        _prove(place, [(0, titles[0])], fragments.titles, fragments, tokenizer)
    shortened = [row for row, title in enumerate(titles) if clipped[row] != title]
    task = bars.add_task("prompt fragments", total=len(titles) + len(shortened))
    for rows, texts, tokenised in (
        (range(len(titles)), titles, fragments.titles),
        (shortened, clipped, fragments.clipped_titles),
    ):
        for batch in _batches((row, texts[row]) for row in rows):
            for place in _PLACES_TO_PROVE:
                _prove(place, batch, tokenised, fragments, tokenizer)
            bars.advance(task, len(batch))
    return fragments


def _tokenise_after(
    context: str, pieces: Iterable[str], tokenizer: PromptTokenizer
) -> Iterator[list[int]]:
    (context_ids,) = tokenizer.inner_ids([context])
    for batch in _batches(pieces):
        texts = [context + piece for piece in batch]
        for text, ids in zip(texts, tokenizer.inner_ids(texts), strict=True):
            if ids[: len(context_ids)] != context_ids:
                raise _merges(text)
            yield ids[len(context_ids) :]


def _prove(
    place: Place,
    titles: Sequence[tuple[int, str]],
    tokenised: Ragged,
    fragments: Fragments,
    tokenizer: PromptTokenizer,
) -> None:
    """Compare the joined fragments of each (row, title) at `place` with its whole text."""
    number, time_ms = place
    before = prompt.number_piece(number) + prompt.date_piece(time_ms)
    tokenise = tokenizer.opening_ids if number == 1 else tokenizer.inner_ids
    head = [*fragments.numbers.row(number - 1), *fragments.dates.row(prompt.date_row(time_ms))]
    texts = [before + prompt.title_piece(title) for _, title in titles]
    for text, whole, (row, _) in zip(texts, tokenise(texts), titles, strict=True):
        if [*head, *tokenised.row(row)] != whole:
            raise _merges(text)


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, _BATCH_SIZE)):
        yield batch


def _merges(text: str) -> BuildError:
    return BuildError(
        f"this LLM's tokenizer joins characters across the pieces of {text[:200]!r}; such a"
        " tokenizer cannot be served from fragments: train on an LLM with a byte-level BPE one"
    )
