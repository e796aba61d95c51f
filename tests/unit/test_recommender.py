"""The whole flow in process: bad input is refused by field path, answers are exact."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.generations import SummingPipeline, make_generation

from engine import Interaction, Recommender, RecommendRequest
from engine.bundle.opened import Bundle
from engine.config import BatcherConfig, Config, RetrievalConfig
from engine.encoders.encoder import Tower
from engine.errors import ConfigError, EncodingFailed, InvalidRequest, RecommenderClosed
from engine.live import Generation
from engine.pipelines.sequential import SequentialPipeline
from engine.query import Prompt, Ranking, Search, fill
from engine.ranking.cpu import CpuRanker
from engine.request import IgnoredReason, MicroBatch
from engine.sizes import Size
from llmsrec.prompt import MAX_INTERACTIONS, MAX_TIMESTAMP_MS

Vectors = NDArray[np.float32]
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
    assert str(caught.value).startswith(f"requests[1].{message}")
    assert f"requests[1].{message}".startswith(caught.value.field + ": ")


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
    mixed = [Interaction("x", 1), known[0], Interaction(" ", 5), known[1], Interaction("401")]
    alone, answer = recommender.recommend([RecommendRequest(known), RecommendRequest(mixed)])
    assert answer.items == alone.items
    assert answer.num_used_interactions == 2
    assert [(each.index, each.item_id, each.reason) for each in answer.ignored] == [
        (0, "x", IgnoredReason.UNKNOWN_ITEM),
        (2, " ", IgnoredReason.UNKNOWN_ITEM),
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


def test_a_repeated_item_is_rendered_each_time_and_excluded_once(
    recommender: Recommender, generation: Generation
) -> None:
    request = RecommendRequest(history(5, 5, 5), k=NUM_ITEMS)
    rendering = generation.render(request, 0.0).rendering
    assert rendering.num_used_interactions == 3
    assert rendering.query.search.excluded_rows.tolist() == [4]
    assert np.count_nonzero(rendering.query.prompt.slot_ids == 5) == 3
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


def test_answers_carry_titles_and_versions(recommender: Recommender, opened_bundle: Bundle) -> None:
    (answer,) = recommender.recommend([RecommendRequest(history(1))])
    titles = opened_bundle.catalogue.titles
    for item in answer.items:
        assert item.title == titles[int(item.item_id) - 1]
    assert answer.model_version == recommender.model_version
    assert answer.catalogue_version == recommender.catalogue_version


def test_every_stage_is_timed_and_the_stages_make_the_total(reference_bundle: Path) -> None:
    config = Config(batcher=BatcherConfig(max_batch_size=1))
    with closing(Recommender.open(reference_bundle, config)) as one_by_one:
        answers = one_by_one.recommend([RecommendRequest(history(1, 2, 3))] * 4)
    for answer in answers:
        timings = answer.timings
        stages = timings.render_ms, timings.queue_ms, timings.encode_ms, timings.retrieve_ms
        assert min(stages) > 0
        assert timings.total_ms >= sum(stages)
    first, *later = [answer.timings for answer in answers]
    for earlier, timings in zip([first, *later], later, strict=False):
        assert timings.queue_ms > earlier.queue_ms + earlier.encode_ms
        assert timings.total_ms > earlier.total_ms + timings.encode_ms


def test_answers_tell_the_micro_batch_that_encoded_them(
    generation: Generation, reference_bundle: Path
) -> None:
    requests = [RecommendRequest(history(*range(1, 1 + length))) for length in (9, 1, 7)]
    lengths = [len(generation.render(request, 0.0).query.prompt) for request in requests]
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


def test_a_history_of_ten_thousand_items_is_rendered_at_once(generation: Generation) -> None:
    longest = history(*(1 + index % NUM_ITEMS for index in range(10_000)))
    rendered = [generation.render(RecommendRequest(longest), 0.0) for _ in range(5)]
    assert rendered[0].rendering.num_used_interactions == MAX_INTERACTIONS
    assert len(rendered[0].rendering.ignored) == 9_990
    fastest_s = min(each.finished - each.started for each in rendered)
    assert fastest_s * 1e3 < MAX_RENDER_MS


class BrokenEncoder:
    """Gives one value that is not finite, as an overflowing engine does."""

    sizes: Sequence[Size] = ()

    def __init__(self, value: float) -> None:
        self.value = value
        self.num_closed = 0

    def encode(self, prompts: Sequence[Prompt], size: Size, tower: Tower) -> NDArray[np.float32]:
        assert tower == "user_vector"
        assert size.num_prompts == len(prompts)
        vectors = np.zeros((len(prompts), 128), np.float32)
        vectors[-1, 5] = self.value
        return vectors

    def warm_up(self) -> Mapping[Size, float]:
        return {Size(1, 2): 1.5}

    def close(self) -> None:
        self.num_closed += 1


class WatchedRanker:
    """Ranks nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []

    def rank(self, user_vectors: Vectors, searches: Sequence[Search]) -> list[Ranking]:
        self.asked.append((len(user_vectors), [search.k for search in searches]))
        return [(np.empty(0, np.int32), np.empty(0, np.float32)) for _ in searches]


def join(encoder: BrokenEncoder, ranker: WatchedRanker) -> SequentialPipeline:
    resources = ExitStack()
    resources.callback(encoder.close)
    return SequentialPipeline(encoder, ranker, resources)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_no_answer(generation: Generation, value: float) -> None:
    pipeline = join(BrokenEncoder(value), WatchedRanker())
    broken = Recommender(replace(generation, pipeline=pipeline))
    with pytest.raises(EncodingFailed, match="not finite"):
        broken.recommend([RecommendRequest(history(1)), RecommendRequest(history(2))])
    with pytest.raises(EncodingFailed, match="not finite"):
        broken.encode_users([history(1), history(2)])


def test_pipeline_that_does_not_warm_up_is_closed(
    reference_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = BrokenEncoder(0.0)
    pipeline = join(encoder, WatchedRanker())

    def fail() -> None:
        raise EncodingFailed("too large")

    monkeypatch.setattr(pipeline, "warm_up", fail)
    monkeypatch.setattr("engine.live.open_pipeline", lambda *_: pipeline)
    with pytest.raises(EncodingFailed, match="too large"):
        Recommender.open(reference_bundle)
    assert encoder.num_closed == 1


def test_precision_of_a_gpus_items_is_refused_where_the_cpu_ranks(reference_bundle: Path) -> None:
    config = Config(retrieval=RetrievalConfig(item_precision="fp16"))
    with pytest.raises(ConfigError, match=r"retrieval\.item_precision .* the CPU ranks .*leave it"):
        Recommender.open(reference_bundle, config)


def test_warm_up_also_ranks_and_gives_what_was_measured() -> None:
    ranker = WatchedRanker()
    assert join(BrokenEncoder(0.0), ranker).warm_up() == {Size(1, 2): 1.5}
    assert ranker.asked == [(1, [1])]


def test_vectors_that_one_has_are_ranked_without_encoding(generation: Generation) -> None:
    class NoEncoder(BrokenEncoder):
        def encode(self, *_: object) -> Vectors:
            raise AssertionError("nothing is to be encoded")

    vectors = generation.pipeline.encode(fill(Size(3, 9)), Size(3, 9), "user_vector")
    items = generation.catalogue.item_vectors
    pipeline = SequentialPipeline(NoEncoder(0.0), CpuRanker(items), ExitStack())
    searches = [Search(k, np.arange(excluded, dtype=np.int32)) for k, excluded in ((1, 0), (9, 50))]
    scores = vectors[:2] @ items.T
    for (rows, _), search, row_scores in zip(
        pipeline.rank(vectors[:2], searches), searches, scores, strict=True
    ):
        row_scores[search.excluded_rows] = -np.inf
        assert rows.tolist() == np.argsort(-row_scores, kind="stable")[: search.k].tolist()


def test_closing_twice_releases_the_encoder_once(
    generation: Generation, reference_bundle: Path
) -> None:
    encoder = BrokenEncoder(0.0)
    recommender = Recommender(replace(generation, pipeline=join(encoder, WatchedRanker())))
    recommender.close()
    recommender.close()
    assert encoder.num_closed == 1
    opened = Recommender.open(reference_bundle)
    opened.close()
    opened.close()


def refused_in_the_end(recommender: Recommender) -> bool:
    while True:
        try:
            recommender.encode_users([[Interaction("1")]])
        except RecommenderClosed:
            return True


def test_closing_lets_the_calls_under_way_end_and_refuses_the_next() -> None:
    pipeline = SummingPipeline()
    recommender = Recommender(make_generation(pipeline))
    pipeline.gate.clear()
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(recommender.recommend, [RecommendRequest([Interaction("3")])])
        assert pipeline.started.wait(timeout=10)
        ending = threads.submit(recommender.close)
        assert refused_in_the_end(recommender)
        assert pipeline.num_closed == 0
        assert not ending.done()
        pipeline.gate.set()
        assert asking.result(timeout=10)[0].items[0].item_id == "3"
        ending.result(timeout=10)
    assert pipeline.num_closed == 1
