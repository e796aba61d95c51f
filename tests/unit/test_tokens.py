"""Titles are clipped at a token's end, read as plain text, and kept apart by slots."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from llmsrec import prompt
from llmsrec.errors import CheckpointError
from llmsrec.tokens import PromptTokenizer, PromptWriter

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("ð", "Ł"), ("ðŁ", "İ")]
BOS = "<s>"
TITLES = st.text(st.sampled_from('the an"🎬é\n <s>'), max_size=60)


def make_tokenizer(first_id: int = 0) -> Tokenizer:
    """Make a byte-level BPE tokenizer with a handful of merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [BOS, *letters, *map("".join, MERGES)]
    vocabulary = {token: index for index, token in enumerate(tokens, start=first_id)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.add_special_tokens([BOS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


PLAIN = make_tokenizer()
PROMPTS = PromptTokenizer(PLAIN)


def num_tokens(title: str) -> int:
    return len(PROMPTS.inner_ids([title])[0])


@given(title=TITLES, max_tokens=st.integers(1, 70))
@settings(deadline=None)
def test_clipped_title_is_the_longest_opening_that_fits(title: str, max_tokens: int) -> None:
    clipped = PROMPTS.clip(title, max_tokens)
    assert title.startswith(clipped)
    assert num_tokens(clipped) <= max_tokens
    if clipped != title:
        assert num_tokens(title) > max_tokens
        whole_token = max(len(token) for token in PLAIN.get_vocab())
        longer = title[: len(clipped) + whole_token]
        assert longer == title or num_tokens(longer) > max_tokens


@pytest.mark.parametrize(
    ("title", "max_tokens", "expected"),
    [
        ("the the the", 3, "the the the"),
        ("the the the", 2, "the the"),
        ("an the", 1, "an"),
        ("xyz", 2, "xy"),
        ("é", 1, ""),
        ("é", 2, "é"),
        ("🎬🎬", 2, "🎬"),
        ("🎬🎬", 3, "🎬"),
        ("🎬", 1, ""),
        ("", 5, ""),
        ("<s>", 2, "<s"),
    ],
)
def test_title_is_clipped_at_the_end_of_a_token_and_a_character(
    title: str, max_tokens: int, expected: str
) -> None:
    assert PROMPTS.clip(title, max_tokens) == expected


def test_special_tokens_in_a_title_are_plain_text() -> None:
    (ids,) = PROMPTS.inner_ids([f"the{BOS}the"])
    assert PLAIN.decode(ids, skip_special_tokens=False) == f"the{BOS}the"
    assert 0 not in ids
    assert PLAIN.encode(BOS).ids == [0]


def test_text_after_a_slot_is_tokenised_as_it_is_and_as_a_whole() -> None:
    assert PROMPTS.inner_ids(["the", " the"]) == PROMPTS.opening_ids(["the", " the"])
    writer = PromptWriter(PROMPTS, ["t", "he"])
    token_ids, slot_ids = writer.user([0, 1], [None, None])
    segments = prompt.user_segments(["t", "he"], [None, None])
    assert token_ids[slot_ids == 0].tolist() == [
        token_id for segment in segments for token_id in PLAIN.encode(segment).ids
    ]


@pytest.mark.parametrize("title", ["\ue0f0slot\ue0f1", "\ue0f0\ue0f0slot\ue0f1slot\ue0f1"])
def test_title_cannot_hold_the_boundary(title: str) -> None:
    num_known = PLAIN.get_vocab_size()
    writer = PromptWriter(PROMPTS, [title])
    for token_ids, slot_ids in (writer.item(0), writer.user([0, 0], [None, None])):
        assert max(token_ids) < num_known
        assert (slot_ids > 0).sum() in {1, 2}


@pytest.mark.parametrize(("template", "prefix"), [(None, []), ("<s> $A", [0]), ("$A <s>", [])])
def test_opening_starts_with_what_the_tokenizer_prepends(
    template: str | None, prefix: list[int]
) -> None:
    tokenizer = make_tokenizer()
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(template, None, [(BOS, 0)])
    prompts = PromptTokenizer(tokenizer)
    assert prompts.prefix_ids == prefix
    assert prompts.opening_ids(["the"]) == [[*prefix, *PROMPTS.inner_ids(["the"])[0]]]
    assert prompts.inner_ids(["the"]) == PROMPTS.inner_ids(["the"])


def test_tokenizers_own_truncation_and_padding_are_ignored() -> None:
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    prompts = PromptTokenizer(tokenizer)
    assert prompts.inner_ids(["xyz", "the"]) == PROMPTS.inner_ids(["xyz", "the"])
    assert PLAIN.encode_special_tokens is False
    assert tokenizer.truncation is not None


def test_tokenizer_without_a_token_for_a_letter_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no token for 'a'; check tokenizer\.json"):
        PromptTokenizer(Tokenizer(models.BPE({"b": 0}, [])))


def test_only_the_newest_ten_interactions_are_written_and_numbered_from_one() -> None:
    writer = PromptWriter(PROMPTS, list("abcdefghijklm"))
    rows, times = list(range(13)), [None, *range(12)]
    newest = writer.user(rows[3:], times[3:])
    for found, expected in zip(writer.user(rows, times), newest, strict=True):
        assert found.tolist() == expected.tolist()
    assert PLAIN.decode(newest[0][:30]).startswith("This user has made")
    slots = newest[1][newest[1] != prompt.TEXT_SLOT].tolist()
    assert slots == [*range(4, 14), prompt.USER_READOUT_SLOT]


@pytest.mark.parametrize("title", ["the " * 2000, "x" * 5000, "🎬" * 2000])
def test_prompts_of_long_titles_fit_and_end_with_the_readout(title: str) -> None:
    writer = PromptWriter(PROMPTS, [title, "short"])
    for num_long in range(1, 11):
        token_ids, slot_ids = writer.user([0] * num_long, [None] * num_long)
        assert len(token_ids) == len(slot_ids) <= prompt.MAX_PROMPT_TOKENS
        assert slot_ids[-1] == prompt.USER_READOUT_SLOT
    token_ids, slot_ids = writer.item(0)
    assert len(token_ids) <= prompt.MAX_PROMPT_TOKENS
    assert slot_ids[slot_ids != prompt.TEXT_SLOT].tolist() == [1, prompt.ITEM_READOUT_SLOT]
    assert slot_ids[-1] == prompt.ITEM_READOUT_SLOT


def test_item_prompt_holds_the_whole_title_while_it_fits() -> None:
    title = "x" * (prompt.MAX_PROMPT_TOKENS - 100)
    token_ids, slot_ids = PromptWriter(PROMPTS, [title]).item(0)
    assert PLAIN.decode(token_ids[slot_ids == 0]) == "".join(prompt.item_segments(title))
