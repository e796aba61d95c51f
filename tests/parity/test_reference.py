"""An import of the published code's files gives its prompts, its vectors and its ranking."""

from typing import NamedTuple

import numpy as np
import pytest
from conftest import Reference
from numpy.typing import NDArray
from rich.progress import Progress
from tokenizers import AddedToken, Tokenizer

from engine import Recommender, RecommendRequest
from llmsrec import prompt
from llmsrec.checkpoint import Checkpoint
from llmsrec.encoding import History, encode_items, encode_users
from llmsrec.model import LLMSRec
from llmsrec.tokens import PromptTokenizer, PromptWriter

Vectors = NDArray[np.float32]
SLOT_TOKENS = ("[HistoryEmb]", "[UserOut]", "[ItemOut]")
K = 10


class Imported(NamedTuple):
    model: LLMSRec
    tokenizer: Tokenizer
    writer: PromptWriter
    titles: list[str]
    histories: list[History]


@pytest.fixture(scope="module")
def imported(reference_checkpoint: Checkpoint, reference: Reference) -> Imported:
    model, tokenizer = reference_checkpoint.load_model()
    titles = reference_checkpoint.titles
    writer = PromptWriter(PromptTokenizer(tokenizer), titles)
    row_of_id = {item.id: row for row, item in enumerate(reference_checkpoint.catalogue)}
    histories: list[History] = [
        (
            [row_of_id[interaction.item_id] for interaction in history],
            [interaction.timestamp_ms for interaction in history],
        )
        for history in reference.histories
    ]
    return Imported(model, tokenizer, writer, titles, histories)


def published_text(titles: list[str], history: History) -> str:
    rows, times = history
    newest = slice(-prompt.MAX_INTERACTIONS, None)
    segments = prompt.user_segments([titles[row] for row in rows[newest]], times[newest])
    return "[HistoryEmb]".join(segments) + "[UserOut]"


def cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    wide, wide_second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(wide_second, axis=1)
    similarity: NDArray[np.float64] = (wide * wide_second).sum(axis=1) / norms
    return similarity


def test_prompts_are_the_published_texts(imported: Imported, reference: Reference) -> None:
    texts = [published_text(imported.titles, history) for history in imported.histories]
    assert texts == reference.prompts
    assert max(len(rows) for rows, _ in imported.histories) > prompt.MAX_INTERACTIONS


def test_prompts_are_tokenised_as_the_published_code_does(
    imported: Imported, reference: Reference
) -> None:
    published = Tokenizer.from_str(imported.tokenizer.to_str())
    published.add_special_tokens([AddedToken(token, normalized=False) for token in SLOT_TOKENS])
    slot_ids = [published.token_to_id(token) for token in SLOT_TOKENS]
    for text, history in zip(reference.prompts, imported.histories, strict=True):
        expected = np.array(published.encode(text).ids)
        token_ids, slots = imported.writer.user(*history)
        assert np.array_equal(slots != prompt.TEXT_SLOT, np.isin(expected, slot_ids))
        is_text = slots == prompt.TEXT_SLOT
        assert np.array_equal(token_ids[is_text], expected[is_text])


def test_pytorch_gives_the_published_vectors(imported: Imported, reference: Reference) -> None:
    bars = Progress(disable=True)
    users = encode_users(imported.model, imported.writer, imported.histories, bars)
    items = encode_items(imported.model, imported.writer, len(imported.titles), bars)
    np.testing.assert_allclose(users, reference.user_vectors, rtol=0, atol=1e-4)
    np.testing.assert_allclose(items, reference.item_vectors, rtol=0, atol=1e-4)


def test_bundle_gives_the_published_vectors(recommender: Recommender, reference: Reference) -> None:
    users = recommender.encode_users(reference.histories)
    assert cosines(users, reference.user_vectors).min() >= 0.99999
    assert cosines(recommender.item_vectors, reference.item_vectors).min() >= 0.99999
    np.testing.assert_allclose(users, reference.user_vectors, rtol=0, atol=1e-4)


def test_bundle_ranks_the_published_first_ten(
    recommender: Recommender, reference: Reference
) -> None:
    requests = [RecommendRequest(history, K, include_seen=True) for history in reference.histories]
    scores = reference.user_vectors @ reference.item_vectors.T  # [U, N]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    for answer, rows, of_user in zip(recommender.recommend(requests), order, scores, strict=True):
        assert [item.item_id for item in answer.items] == [str(row + 1) for row in rows]
        found = [item.score for item in answer.items]
        np.testing.assert_allclose(found, of_user[rows], rtol=1e-4, atol=1e-3)
