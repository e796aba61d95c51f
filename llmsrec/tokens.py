"""Tokenises prompts segment by segment, in the context in which each segment stands."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer

from llmsrec import prompt
from llmsrec.errors import CheckpointError

_BOUNDARY = "\ue0f0slot\ue0f1"

PromptArrays = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Token ids and slot ids of one prompt, both `[T]`."""


class PromptTokenizer:
    """A tokenizer that reads titles as plain text and treats every slot as a hard boundary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.add_tokens([AddedToken(_BOUNDARY, normalized=False, special=False)])
        self.prefix_ids = self._find_prefix()

    def opening_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts that open a prompt, with what the tokenizer prepends to any text."""
        return [self.prefix_ids + ids for ids in self._encode(map(_plain, texts))]

    def inner_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts that follow a slot."""
        return [ids[1:] for ids in self._encode(_BOUNDARY + _plain(text) for text in texts)]

    def require_seams(self) -> None:
        """Refuse a tokenizer that joins characters across the pieces which serving joins.

        A build proves the same for every title; this finds most such tokenizers at once.

        Raises:
            CheckpointError: naming the text.
        """
        pieces = (prompt.number_piece(2), prompt.date_piece(0), prompt.title_piece("A title"))
        texts = list(accumulate(pieces))
        for text, (ids, longer) in zip(texts[1:], pairwise(self.inner_ids(texts)), strict=True):
            if longer[: len(ids)] != ids:
                raise CheckpointError(
                    f"this LLM's tokenizer joins characters across the pieces of {text!r}; such a"
                    " tokenizer cannot be served from fragments: train on an LLM with a byte-level"
                    " BPE one"
                )

    def clip(self, title: str, max_tokens: int) -> str:
        """Cut a title to at most `max_tokens` tokens, at a token's end."""
        encoding: Encoding = self._tokenizer.encode(_plain(title), add_special_tokens=False)
        if len(encoding.ids) <= max_tokens:
            return title
        clipped = _plain(title)[: encoding.offsets[max_tokens - 1][1]]
        while clipped and len(self._encode([clipped])[0]) > max_tokens:
            clipped = clipped[:-1]
        return clipped

    def _encode(self, texts: Iterable[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _find_prefix(self) -> list[int]:
        encoding: Encoding = self._tokenizer.encode("a")
        if 0 not in encoding.special_tokens_mask:
            raise CheckpointError("the tokenizer gives no token for 'a'; check tokenizer.json")
        prefix: list[int] = encoding.ids[: encoding.special_tokens_mask.index(0)]
        return prefix


class PromptWriter:
    """Writes whole prompts for one catalogue of titles: what training and export use."""

    def __init__(self, tokenizer: PromptTokenizer, titles: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._titles = titles

    def user(self, item_rows: Sequence[int], timestamps_ms: Sequence[int | None]) -> PromptArrays:
        """Write a user's prompt from an interaction sequence, oldest first."""
        rows = item_rows[-prompt.MAX_INTERACTIONS :]
        times = timestamps_ms[-prompt.MAX_INTERACTIONS :]
        full = [self._titles[row] for row in rows]
        clipped = [self._tokenizer.clip(title, prompt.MAX_CLIPPED_TITLE_TOKENS) for title in full]

        def segments(kept: int, clip: bool) -> list[list[int]]:  # noqa: FBT001
            titles = (clipped if clip else full)[-kept:]
            return self._segment_ids(prompt.user_segments(titles, times[-kept:]))

        kept, clip = prompt.plan_window(
            len(rows), lambda kept, clip: _num_tokens(segments(kept, clip))
        )
        slots = [*(row + 1 for row in rows[-kept:]), prompt.USER_READOUT_SLOT]
        return _interleave(segments(kept, clip), slots)

    def item(self, item_row: int) -> PromptArrays:
        title = self._titles[item_row]
        slots = [item_row + 1, prompt.ITEM_READOUT_SLOT]
        segments = self._segment_ids(prompt.item_segments(title))
        if _num_tokens(segments) > prompt.MAX_PROMPT_TOKENS:
            title = self._tokenizer.clip(title, prompt.MAX_CLIPPED_TITLE_TOKENS)
            segments = self._segment_ids(prompt.item_segments(title))
        return _interleave(segments, slots)

    def _segment_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [*self._tokenizer.opening_ids(texts[:1]), *self._tokenizer.inner_ids(texts[1:])]


def _plain(text: str) -> str:
    """Keep a title from holding the boundary."""
    return text.replace(_BOUNDARY[0], "")


def _num_tokens(segments: Iterable[Sequence[int]]) -> int:
    return sum(len(segment) + 1 for segment in segments)


def _interleave(segments: Sequence[Sequence[int]], slots: Sequence[int]) -> PromptArrays:
    token_ids = chain.from_iterable((*segment, 0) for segment in segments)
    slot_ids = chain.from_iterable(
        (*([prompt.TEXT_SLOT] * len(segment)), slot)
        for segment, slot in zip(segments, slots, strict=True)
    )
    return np.fromiter(token_ids, np.int32), np.fromiter(slot_ids, np.int32)
