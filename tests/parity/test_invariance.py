"""An answer depends on its own request alone: not on its batch, its padding or what is too old."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from conftest import Reference
from numpy.typing import NDArray
from rich.progress import Progress

from engine import Interaction, Recommendation, Recommender, RecommendRequest
from engine.bundle.manifest import GRAPH_FILE
from engine.bundle.opened import Bundle
from engine.catalogue.snapshot import Catalogue
from engine.config import BatcherConfig, Config
from engine.live import Generation
from engine.pipelines.open import open_pipeline
from engine.prompts.join import join
from engine.query import Query
from engine.sizes import Size, choose_limits
from export.fragments import build_fragments
from llmsrec import prompt
from llmsrec.checkpoint import Checkpoint
from llmsrec.tokens import PromptTokenizer

Vectors = NDArray[np.float32]
TOLERANCE = 1e-5
NUM_LONG_TITLES = 12


def ids_of(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def scores_of(answer: Recommendation) -> list[float]:
    return [item.score for item in answer.items]


def assert_same_answers(
    found: Sequence[Recommendation], expected: Sequence[Recommendation]
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert ids_of(one) == ids_of(other)
        np.testing.assert_allclose(scores_of(one), scores_of(other), rtol=1e-5, atol=1e-4)


def assert_same_vectors(found: Vectors, expected: Vectors) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def queries(generation: Generation, reference: Reference) -> list[Query]:
    requests = [RecommendRequest(history) for history in reference.histories]
    return [generation.render(request, 0.0).query for request in requests]


@pytest.fixture(scope="module")
def alone(recommender: Recommender, reference: Reference) -> list[Recommendation]:
    """The answers of requests that shared no batch."""
    requests = [RecommendRequest(history) for history in reference.histories]
    return [recommender.recommend([request])[0] for request in requests]


def test_batched_equals_single(
    generation: Generation, queries: list[Query], alone: list[Recommendation]
) -> None:
    lengths = [len(query.prompt) for query in queries]
    assert len(set(lengths)) > len(queries) / 2
    whole = Size(len(queries), max(lengths))
    forth = generation.run(queries, whole).rankings
    back = generation.run(queries[::-1], whole).rankings[::-1]
    for found in (forth, back):
        for (rows, scores), expected in zip(found, alone, strict=True):
            found_ids = [generation.catalogue.item_ids[row] for row in rows]
            assert found_ids == ids_of(expected)
            np.testing.assert_allclose(scores, scores_of(expected), rtol=1e-5, atol=1e-4)


def test_batched_vectors_equal_single_ones(recommender: Recommender, reference: Reference) -> None:
    single = [recommender.encode_users([history]) for history in reference.histories]
    assert_same_vectors(recommender.encode_users(reference.histories), np.concatenate(single))


@pytest.mark.parametrize("max_batch_tokens", [1, 2048, 100_000])
def test_token_budget_changes_no_answer(
    generation: Generation,
    reference: Reference,
    alone: list[Recommendation],
    max_batch_tokens: int,
) -> None:
    batcher = BatcherConfig(max_batch_tokens=max_batch_tokens, max_batch_size=64)
    other = Recommender(replace(generation, limits=choose_limits(batcher, ())))
    requests = [RecommendRequest(history) for history in reference.histories]
    assert_same_answers(other.recommend(requests), alone)


def test_order_of_requests_does_not_matter(
    recommender: Recommender, reference: Reference, alone: list[Recommendation]
) -> None:
    order = np.random.default_rng(0).permutation(len(alone))
    answers = recommender.recommend([RecommendRequest(reference.histories[i]) for i in order])
    assert_same_answers(answers, [alone[i] for i in order])


def test_what_stands_after_the_readout_changes_nothing(
    generation: Generation, opened_bundle: Bundle, queries: list[Query]
) -> None:
    bundle = opened_bundle
    session = onnxruntime.InferenceSession(bundle.path / GRAPH_FILE)
    rng = np.random.default_rng(0)
    for query in queries[:4]:
        written, length = query.prompt, len(query.prompt)
        shape = (2, length + 57)
        input_ids = rng.integers(0, 500, shape)
        slot_ids = rng.integers(prompt.ITEM_READOUT_SLOT, bundle.manifest.num_items, shape)
        input_ids[:, :length], slot_ids[:, :length] = written.token_ids, written.slot_ids
        feed = {
            "input_ids": input_ids,
            "slot_ids": slot_ids,
            "readout_position": np.full(2, length - 1),
            "item_table": bundle.item_table,
        }
        padded = session.run(["user_vector"], feed)[0]
        plain = generation.pipeline.encode([written], Size(1, length), "user_vector")
        assert_same_vectors(padded, np.concatenate([plain, plain]))


def test_long_history_is_answered_like_its_newest_ten(recommender: Recommender) -> None:
    item_ids = recommender.item_ids
    seen, unseen = item_ids[:-20], item_ids[-20:]
    rng = np.random.default_rng(0)
    chosen = [*rng.choice(seen, 10_000 - len(seen)).tolist(), *seen]
    times = np.sort(rng.integers(10**11, prompt.MAX_TIMESTAMP_MS, len(chosen))).tolist()
    history = [Interaction(*pair) for pair in zip(chosen, times, strict=True)]
    newest = history[-prompt.MAX_INTERACTIONS :]
    assert_same_vectors(recommender.encode_users([history]), recommender.encode_users([newest]))
    for_all, for_newest = recommender.recommend(
        [
            RecommendRequest(history, k=50),
            RecommendRequest(newest, k=50, excluded_item_ids=seen),
        ]
    )
    assert sorted(ids_of(for_all)) == sorted(unseen)
    assert_same_answers([for_all], [for_newest])
    assert for_all.num_used_interactions == prompt.MAX_INTERACTIONS
    assert [ignored.index for ignored in for_all.ignored] == list(range(10_000 - 10))


@pytest.fixture(scope="module")
def long_titled(opened_bundle: Bundle, reference_checkpoint: Checkpoint) -> Bundle:
    """The bundle's first items under titles of 5,000 characters each."""
    catalogue = opened_bundle.catalogue
    kept = slice(NUM_LONG_TITLES)
    words = ["A history of everything, volume ", "0123456789", "🎬", "no spaces", '", "', "\n"]
    titles = [(words[row % len(words)] * 5000)[: 5000 - row] for row in range(NUM_LONG_TITLES)]
    tokenizer = PromptTokenizer(reference_checkpoint.load_model()[1])
    return replace(
        opened_bundle,
        catalogue=Catalogue(
            version="long",
            item_ids=catalogue.item_ids[kept],
            titles=titles,
            row_of_id={item_id: row for row, item_id in enumerate(catalogue.item_ids[kept])},
            item_vectors=catalogue.item_vectors[kept],
        ),
        item_table=opened_bundle.item_table[kept],
        fragments=build_fragments(tokenizer, titles, Progress(disable=True)),
    )


@pytest.fixture
def long_titled_recommender(long_titled: Bundle) -> Iterator[Recommender]:
    with closing(open_pipeline(long_titled, Config())) as pipeline:
        titled, fragments = long_titled.catalogue, long_titled.fragments
        limits = choose_limits(BatcherConfig(), pipeline.sizes)
        yield Recommender(Generation(1, "model", titled, fragments, pipeline, limits))


@pytest.mark.parametrize("num_interactions", range(1, 13))
def test_truncation_keeps_the_readout_and_the_newest(
    long_titled: Bundle, num_interactions: int
) -> None:
    rows = [row % NUM_LONG_TITLES for row in range(5, 5 + num_interactions)]
    written, num_kept = join(long_titled.fragments, rows, [None] * num_interactions)
    assert len(written) <= prompt.MAX_PROMPT_TOKENS
    slots = [*(row + 1 for row in rows[-num_kept:]), prompt.USER_READOUT_SLOT]
    assert written.slot_ids[written.slot_ids != prompt.TEXT_SLOT].tolist() == slots
    assert written.slot_ids[-1] == prompt.USER_READOUT_SLOT
    assert num_kept >= min(num_interactions, 5)


def test_long_titles_are_answered(long_titled_recommender: Recommender) -> None:
    history = [Interaction(item_id) for item_id in long_titled_recommender.item_ids[:10]]
    assert np.isfinite(long_titled_recommender.encode_users([history])).all()
    (answer,) = long_titled_recommender.recommend([RecommendRequest(history)])
    assert sorted(ids_of(answer)) == sorted(long_titled_recommender.item_ids[10:])
    num_ignored = len(history) - answer.num_used_interactions
    assert [ignored.index for ignored in answer.ignored] == list(range(num_ignored))
