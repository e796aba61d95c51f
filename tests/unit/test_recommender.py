"""The whole flow in process: bad input is refused by field path, answers are exact."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import Interaction, Recommender, RecommendRequest
from engine.bundle.opened import open_bundle
from engine.config import BatcherConfig, Config
from engine.encoders.encoder import Tower
from engine.errors import EncodingFailed, InvalidRequest
from engine.pipelines.pipeline import Ranked
from engine.pipelines.sequential import TwoStageRanker
from engine.ranking.cpu import Ranking
from engine.request import IgnoredReason, MicroBatch, Prompt, Query
from llmsrec.prompt import MAX_INTERACTIONS, MAX_TIMESTAMP_MS

NUM_ITEMS = 400
MAX_RENDER_MS = 50


def history(*item_ids: object, timestamps_ms: Sequence[int | None] = ()) -> list[Interaction]:
    times = timestamps_ms or [None] * len(item_ids)
    return [Interaction(str(each), time) for each, time in zip(item_ids, times, strict=True)]


def ids(recommender: Recommender, request: RecommendRequest) -> list[str]:
    (answer,) = recommender.recommend([request])
    return [item.item_id for item in answer.items]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param(RecommendRequest([]), "history: is empty; give at least one", id="empty"),
        pytest.param(
            RecommendRequest(history("x", "0", "401")),
            "history: none of its 3 item ids is in the catalogue ",
            id="only unknown items",
        ),
        pytest.param(
            RecommendRequest(history(1), k=0), "k: must be between 1 and 400", id="k of zero"
        ),
        pytest.param(
            RecommendRequest(history(1), k=-1), "k: must be between 1 and 400", id="negative k"
        ),
        pytest.param(
            RecommendRequest(history(1), k=401), "k: must be between 1 and 400", id="k too large"
        ),
        pytest.param(
            RecommendRequest(history(1, 2, timestamps_ms=[0, -1])),
            "history[1].timestamp_ms: must be milliseconds since 1970",
            id="before 1970",
        ),
        pytest.param(
            RecommendRequest(history(1, timestamps_ms=[MAX_TIMESTAMP_MS + 1])),
            "history[0].timestamp_ms: must be milliseconds since 1970, between 0 and 41024447",
            id="beyond the last date",
        ),
        pytest.param(
            RecommendRequest(history(1, 2, 3, 4, timestamps_ms=[5, 9, None, 8])),
            "history[3].timestamp_ms: is earlier than history[1]'s; give the interactions oldest",
            id="out of order",
        ),
        pytest.param(
            RecommendRequest(history("x", 1, timestamps_ms=[2, 1])),
            "history[1].timestamp_ms: is earlier than history[0]'s",
            id="out of order after an unknown item",
        ),
    ],
)
def test_bad_request_names_its_field(
    recommender: Recommender, request_: RecommendRequest, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        recommender.recommend([RecommendRequest(history(1)), request_])
    assert str(caught.value).startswith(message)
    assert message.startswith(caught.value.field + ": ")


@pytest.mark.parametrize(
    "timestamps_ms", [(0, 0), (None, None), (0, MAX_TIMESTAMP_MS), (None, 1), (1, None)]
)
def test_equal_missing_and_extreme_timestamps_are_accepted(
    recommender: Recommender, timestamps_ms: Sequence[int | None]
) -> None:
    request = RecommendRequest(history(1, 2, timestamps_ms=timestamps_ms))
    assert len(ids(recommender, request)) == 10


def test_unknown_items_change_nothing_and_are_reported(recommender: Recommender) -> None:
    known = history(1, 2, timestamps_ms=[3, 7])
    mixed = [Interaction("x", 1), known[0], Interaction("", 5), known[1], Interaction("401")]
    alone, answer = recommender.recommend([RecommendRequest(known), RecommendRequest(mixed)])
    assert answer.items == alone.items
    assert answer.num_used_interactions == 2
    assert [(each.index, each.item_id, each.reason) for each in answer.ignored] == [
        (0, "x", IgnoredReason.UNKNOWN_ITEM),
        (2, "", IgnoredReason.UNKNOWN_ITEM),
        (4, "401", IgnoredReason.UNKNOWN_ITEM),
    ]
    assert alone.ignored == []


def test_interactions_beyond_the_window_are_reported_and_count_as_seen(
    recommender: Recommender,
) -> None:
    newest = history(*range(101, 101 + MAX_INTERACTIONS))
    longer = [*history(1, "x", 2), *newest]
    (answer,) = recommender.recommend([RecommendRequest(longer, k=NUM_ITEMS)])
    assert answer.num_used_interactions == MAX_INTERACTIONS
    assert [(each.index, each.reason) for each in answer.ignored] == [
        (0, IgnoredReason.BEYOND_WINDOW),
        (1, IgnoredReason.UNKNOWN_ITEM),
        (2, IgnoredReason.BEYOND_WINDOW),
    ]
    assert {"1", "2", "101"}.isdisjoint(item.item_id for item in answer.items)
    np.testing.assert_array_equal(
        recommender.encode_users([longer]), recommender.encode_users([newest])
    )


def test_a_repeated_item_is_rendered_each_time_and_excluded_once(recommender: Recommender) -> None:
    request = RecommendRequest(history(5, 5, 5), k=NUM_ITEMS)
    query = recommender.render(request)
    assert query.num_used_interactions == 3
    assert query.excluded_rows.tolist() == [4]
    assert np.count_nonzero(query.prompt.slot_ids == 5) == 3
    assert sorted(ids(recommender, request), key=int) == [
        str(item_id) for item_id in range(1, 401) if item_id != 5
    ]


def test_ten_items_are_returned_unless_k_says_otherwise(recommender: Recommender) -> None:
    ten = ids(recommender, RecommendRequest(history(1)))
    assert len(ten) == 10
    assert ids(recommender, RecommendRequest(history(1), k=1)) == ten[:1]


def test_seen_items_come_back_only_where_the_request_says_so(recommender: Recommender) -> None:
    unseen = ids(recommender, RecommendRequest(history(7), k=NUM_ITEMS))
    everything = ids(recommender, RecommendRequest(history(7), k=NUM_ITEMS, include_seen=True))
    assert len(everything) == NUM_ITEMS
    assert unseen == [item_id for item_id in everything if item_id != "7"]


def test_excluded_items_never_come_back_and_the_rest_keeps_its_order(
    recommender: Recommender,
) -> None:
    plain = ids(recommender, RecommendRequest(history(7), k=NUM_ITEMS, include_seen=True))
    excluded = [plain[0], plain[3], "unknown", plain[0], "7"]
    request = RecommendRequest(history(7), 20, include_seen=True, excluded_item_ids=excluded)
    assert ids(recommender, request) == [each for each in plain if each not in excluded][:20]


def test_unknown_exclusions_have_no_effect(recommender: Recommender) -> None:
    request = RecommendRequest(history(1), excluded_item_ids=["x", "", "401"])
    assert ids(recommender, request) == ids(recommender, RecommendRequest(history(1)))


def test_exclusions_leave_fewer_items_or_none(recommender: Recommender) -> None:
    most = [str(item_id) for item_id in range(2, 399)]
    request = RecommendRequest(history(1), excluded_item_ids=most)
    assert sorted(ids(recommender, request)) == ["399", "400"]
    request = RecommendRequest(history(1), excluded_item_ids=recommender.item_ids)
    assert ids(recommender, request) == []


def test_scores_are_the_inner_products_best_first(recommender: Recommender) -> None:
    histories = [history(1), history(2, 3, timestamps_ms=[10**12, None])]
    requests = [RecommendRequest(each, NUM_ITEMS, include_seen=True) for each in histories]
    vectors = recommender.encode_users(histories)
    assert vectors.shape == (2, 128)
    assert vectors.dtype == np.float32
    for answer, vector in zip(recommender.recommend(requests), vectors, strict=True):
        scores = np.array([item.score for item in answer.items])
        rows = [recommender.item_ids.index(item.item_id) for item in answer.items]
        expected = recommender.item_vectors[rows] @ vector
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(scores).max())
        assert (np.diff(scores) <= 0).all()


def test_answers_carry_titles_versions_and_timings(recommender: Recommender) -> None:
    (answer,) = recommender.recommend([RecommendRequest(history(1))])
    titles = open_bundle(recommender._bundle.path).titles
    for item in answer.items:
        assert item.title == titles[int(item.item_id) - 1]
    assert answer.model_version == recommender.model_version
    assert answer.catalogue_version == recommender.catalogue_version
    timings = answer.timings
    assert min(timings.render_ms, timings.encode_ms, timings.retrieve_ms) > 0


def test_answers_tell_the_micro_batch_that_encoded_them(
    recommender: Recommender, reference_bundle: Path
) -> None:
    requests = [RecommendRequest(history(*range(1, 1 + length))) for length in (9, 1, 7)]
    lengths = [len(recommender.render(request).prompt) for request in requests]
    config = Config(batcher=BatcherConfig(max_batch_size=2))
    small = Recommender.open(reference_bundle, config)
    answers = small.recommend(requests)
    small.close()
    assert [answer.num_prompt_tokens for answer in answers] == lengths
    shared, alone = MicroBatch(2, lengths[2]), MicroBatch(1, lengths[0])
    assert [answer.micro_batch for answer in answers] == [alone, shared, shared]


def test_answers_keep_the_order_of_the_requests(
    recommender: Recommender, reference_bundle: Path
) -> None:
    histories = [history(*range(1, 1 + length)) for length in (9, 1, 7, 2, 8, 3)]
    requests = [RecommendRequest(each, k=3) for each in histories]
    config = Config(batcher=BatcherConfig(max_batch_size=2, max_batch_tokens=256))
    small = Recommender.open(reference_bundle, config)
    found = [[item.item_id for item in each.items] for each in small.recommend(requests)]
    small.close()
    assert found == [ids(recommender, request) for request in requests]


def test_no_requests_give_no_answers(recommender: Recommender) -> None:
    assert recommender.recommend([]) == []
    assert recommender.encode_users([]).shape == (0, 128)


def test_a_history_of_ten_thousand_items_is_rendered_at_once(recommender: Recommender) -> None:
    longest = history(*(1 + index % NUM_ITEMS for index in range(10_000)))
    query = recommender.render(RecommendRequest(longest))
    assert query.num_used_interactions == MAX_INTERACTIONS
    assert len(query.ignored) == 9_990
    fastest = min(recommender.render(RecommendRequest(longest)).render_ms for _ in range(5))
    assert fastest < MAX_RENDER_MS


class BrokenRanker:
    """Gives one value that is not finite, as an overflowing engine does."""

    max_batches_in_flight = 1

    def __init__(self, value: float) -> None:
        self.value = value
        self.num_closed = 0

    def encode(self, prompts: Sequence[Prompt], tower: Tower) -> NDArray[np.float32]:
        assert tower == "user_vector"
        vectors = np.zeros((len(prompts), 128), np.float32)
        vectors[-1, 5] = self.value
        return vectors

    def rank(self, queries: Sequence[Query]) -> Ranked:
        vectors = self.encode([query.prompt for query in queries], "user_vector")
        nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        return Ranked(vectors, [nothing] * len(queries), encode_ms=0, retrieve_ms=0)

    def warm_up(self) -> None: ...

    def close(self) -> None:
        self.num_closed += 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_no_answer(reference_bundle: Path, value: float) -> None:
    broken = Recommender(open_bundle(reference_bundle), BrokenRanker(value), Config())
    with pytest.raises(EncodingFailed, match="not finite"):
        broken.recommend([RecommendRequest(history(1)), RecommendRequest(history(2))])


def test_ranker_that_does_not_warm_up_is_closed(
    reference_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = BrokenRanker(0.0)

    def fail() -> None:
        raise EncodingFailed("too large")

    monkeypatch.setattr(ranker, "warm_up", fail)
    monkeypatch.setattr("engine.recommender.open_ranker", lambda *_: ranker)
    with pytest.raises(EncodingFailed, match="too large"):
        Recommender.open(reference_bundle)
    assert ranker.num_closed == 1


def test_warm_up_also_ranks() -> None:
    asked = []

    def retrieve(user_vectors: NDArray[np.float32], **arguments: object) -> list[Ranking]:
        asked.append((len(user_vectors), arguments["k"]))
        return []

    TwoStageRanker(BrokenRanker(0.0), retrieve, ExitStack()).warm_up()
    assert asked == [(1, [1])]


def test_closing_twice_releases_the_encoder_once(reference_bundle: Path) -> None:
    encoder = BrokenRanker(0.0)
    recommender = Recommender(open_bundle(reference_bundle), encoder, Config())
    recommender.close()
    recommender.close()
    assert encoder.num_closed == 1
    opened = Recommender.open(reference_bundle)
    opened.close()
    opened.close()
