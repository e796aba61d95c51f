"""In process, a value of another type is refused at the door, by its path."""

from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.generations import SummingPipeline, make_generation

from engine import EngineError, Interaction, Recommender, RecommendRequest
from engine.config import BatcherConfig, Config
from engine.errors import BundleError, ConfigError, InvalidRequest, RecommenderClosed

KNOWN = [Interaction("1")]


def at(time: object) -> list[Interaction]:
    return [Interaction("1", time)]  # type: ignore[arg-type]


def of(item_id: object) -> list[Interaction]:
    return [Interaction("1"), Interaction(item_id)]  # type: ignore[arg-type]


def ask(**fields: object) -> list[RecommendRequest]:
    request: Any = {"history": KNOWN} | fields
    return [RecommendRequest(KNOWN), RecommendRequest(**request)]


@pytest.fixture(scope="module")
def summing() -> Recommender:
    return Recommender(make_generation(SummingPipeline()))


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        pytest.param(RecommendRequest(KNOWN), "requests: is RecommendRequest, ", id="one request"),
        pytest.param(None, "requests: is None, expected a sequence of Rec", id="no requests"),
        pytest.param("1", "requests: is str, expected a sequence of Rec", id="text as requests"),
        pytest.param(iter([]), "requests: is list_iterator, expected a seq", id="iterator"),
        pytest.param(KNOWN, "requests[0]: is Interaction, expected Recomm", id="a history"),
        pytest.param([KNOWN], "requests[0]: is list, expected RecommendRequ", id="histories"),
        pytest.param(
            [None], "requests[0]: is None, expected RecommendRequest", id="None in a list"
        ),
        pytest.param(
            ask(history="50"), "requests[1].history: is str, expect", id="history as text"
        ),
        pytest.param(ask(history=KNOWN[0]), "requests[1].history: is Inter", id="one interaction"),
        pytest.param(ask(history={"1": 0}), "requests[1].history: is dict, exp", id="dictionary"),
        pytest.param(ask(history={KNOWN[0]}), "requests[1].history: is set, ", id="without order"),
        pytest.param(ask(history=iter(KNOWN)), "requests[1].history: is list_it", id="generator"),
        pytest.param(ask(history=None), "requests[1].history: is None, exp", id="no history"),
        pytest.param(
            ask(history=b"50"), "requests[1].history: is bytes, expec", id="history of bytes"
        ),
        pytest.param(ask(history=np.array(["1"])), "requests[1].history: is ndarray", id="array"),
        pytest.param(ask(history=["1"]), "requests[1].history[0]: is str, expect", id="ids alone"),
        pytest.param(ask(history=[("1", 0)]), "requests[1].history[0]: is tuple, e", id="pairs"),
        pytest.param(ask(history=range(3)), "requests[1].history[0]: is int, expe", id="range"),
        pytest.param(
            ask(history=of(50)),
            "requests[1].history[1].item_id: is int, expected str; ",
            id="int id",
        ),
        pytest.param(
            ask(history=of(50.0)), "requests[1].history[1].item_id: is float", id="float id"
        ),
        pytest.param(ask(history=of(None)), "requests[1].history[1].item_id: is None", id="no id"),
        pytest.param(
            ask(history=of(b"1")), "requests[1].history[1].item_id: is bytes", id="bytes id"
        ),
        pytest.param(
            ask(history=of(np.int64(1))), "requests[1].history[1].item_id: is int64", id="NumPy id"
        ),
        pytest.param(
            ask(history=of("\ud800")),
            "requests[1].history[1].item_id: is not valid",
            id="surrogate",
        ),
        pytest.param(
            ask(history=at(1.5e12)),
            "requests[1].history[0].timestamp_ms: is float, ",
            id="float time",
        ),
        pytest.param(
            ask(history=at(np.float64(1e12))),
            "requests[1].history[0].timestamp_ms: is fl",
            id="f64",
        ),
        pytest.param(
            ask(history=at("1997-11-22")),
            "requests[1].history[0].timestamp_ms: is str",
            id="text time",
        ),
        pytest.param(
            ask(history=at(True)), "requests[1].history[0].timestamp_ms: is bool, ", id="bool time"
        ),
        pytest.param(
            ask(history=at(datetime(1997, 11, 22, tzinfo=UTC))),
            "requests[1].history[0].timestamp_ms: is datetime, expected int or None; write int(",
            id="datetime",
        ),
        pytest.param(
            ask(history=at(date(1997, 11, 22))),
            "requests[1].history[0].timestamp_ms: is d",
            id="date",
        ),
        pytest.param(
            ask(history=at(np.datetime64("1997-11-22"))),
            "requests[1].history[0].timestamp_ms: is datetime64, ",
            id="datetime64",
        ),
        pytest.param(ask(k=5.0), "requests[1].k: is float, expected int or None; ", id="float k"),
        pytest.param(ask(k="5"), "requests[1].k: is str, expected int or None; ", id="text k"),
        pytest.param(ask(k=True), "requests[1].k: is bool, expected int or None; ", id="bool k"),
        pytest.param(ask(k=np.True_), "requests[1].k: is bool, expected int", id="NumPy bool k"),
        pytest.param(ask(k=0), "requests[1].k: must be between 1 and 1000", id="k out of range"),
        pytest.param(
            ask(include_seen="false"), "requests[1].include_seen: is str, ", id="text flag"
        ),
        pytest.param(ask(include_seen=None), "requests[1].include_seen: is None, ", id="None flag"),
        pytest.param(ask(include_seen=1), "requests[1].include_seen: is int, ", id="int flag"),
        pytest.param(
            ask(excluded_item_ids="12"),
            "requests[1].excluded_item_ids: is str, ",
            id="one exclusion",
        ),
        pytest.param(
            ask(excluded_item_ids=None),
            "requests[1].excluded_item_ids: is None, ",
            id="None excluded",
        ),
        pytest.param(
            ask(excluded_item_ids=["1", 2]),
            "requests[1].excluded_item_ids[1]: is int",
            id="int among",
        ),
        pytest.param(
            ask(excluded_item_ids={2}), "requests[1].excluded_item_ids[0]: is int", id="set of ints"
        ),
        pytest.param(
            ask(excluded_item_ids={"1": 1}),
            "requests[1].excluded_item_ids: is dict",
            id="dict excluded",
        ),
    ],
)
def test_another_type_is_refused_by_its_path(
    summing: Recommender, requests: object, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        summing.recommend(requests)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        pytest.param(KNOWN, "histories[0]: is Interaction, expected a seq", id="one history"),
        pytest.param(["1"], "histories[0]: is str, expected a sequence of I", id="ids"),
        pytest.param(
            [["1"]], "histories[0][0]: is str, expected Interaction", id="histories of ids"
        ),
        pytest.param(None, "histories: is None, expected a sequence of", id="None"),
        pytest.param([KNOWN, of(5)], "histories[1][1].item_id: is int, exp", id="int id"),
        pytest.param([RecommendRequest(KNOWN)], "histories[0]: is RecommendRequest", id="requests"),
        pytest.param([KNOWN, []], "histories[1]: is empty; give at least one", id="empty"),
        pytest.param([KNOWN, at(-1)], "histories[1][0].timestamp_ms: must be", id="before 1970"),
    ],
)
def test_history_of_another_type_is_refused_by_its_path(
    summing: Recommender, histories: object, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        summing.encode_users(histories)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(ask(k=np.int32(5)), id="NumPy k"),
        pytest.param(ask(k=None), id="no k"),
        pytest.param(ask(history=at(np.int64(10**12))), id="NumPy time"),
        pytest.param(ask(history=of(np.str_("1"))), id="NumPy id"),
        pytest.param(ask(history=(Interaction("1"),)), id="tuple"),
        pytest.param(ask(history=deque(KNOWN)), id="deque"),
        pytest.param(ask(include_seen=np.True_), id="NumPy flag"),
        pytest.param(ask(excluded_item_ids={"1", "2"}), id="set of exclusions"),
        pytest.param(tuple(ask()), id="tuple of requests"),
    ],
)
def test_equal_values_of_kindred_types_are_taken(
    summing: Recommender, requests: Sequence[RecommendRequest]
) -> None:
    first, second = summing.recommend(requests)
    assert (first.ignored, second.ignored) == ([], [])


def test_small_catalogue_is_returned_whole_where_no_k_is_asked_for() -> None:
    generation = make_generation(SummingPipeline())
    items = generation.catalogue
    few = replace(items, item_ids=items.item_ids[:7], titles=items.titles[:7])
    for catalogue, k in ((few, 7), (items, 10)):
        rendered = replace(generation, catalogue=catalogue).render(RecommendRequest(KNOWN), 0.0)
        assert rendered.query.search.k == k


Values = st.SearchStrategy[object]
SCALARS: Values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
)


def nested(members: Values) -> Values:
    return (
        st.lists(members, max_size=3)
        | st.tuples(members)
        | st.dictionaries(st.text(max_size=2), members, max_size=2)
        | st.builds(Interaction, st.just("1") | members, st.none() | members)
        | st.builds(
            RecommendRequest,
            st.lists(members, max_size=3) | members,
            members,
            st.booleans() | members,
            st.just(()) | members,
        )
        | st.builds(np.array, st.just([1, 2]))
    )


FIELDS = SCALARS | nested(SCALARS) | nested(SCALARS | nested(SCALARS))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FIELDS)
def test_nothing_but_an_error_of_the_engine_is_raised(summing: Recommender, value: object) -> None:
    askers: list[Any] = [summing.recommend, summing.encode_users]
    for ask_with in askers:
        for wrapped in (value, [value], [[value]], ask(history=value), ask(k=value)):
            with suppress(EngineError):
                ask_with(wrapped)


@pytest.mark.parametrize("bundle", [None, 5, b"bundle", ["bundle"], "bun\0dle", Config()])
def test_what_is_no_path_is_no_bundle(bundle: object) -> None:
    with pytest.raises(BundleError, match="is no path of a bundle"):
        Recommender.open(bundle)  # type: ignore[arg-type]


def test_path_alone_is_to_be_opened(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"use Recommender\.open"):
        Recommender(str(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({}, "config: is dict, expected Config", id="empty dictionary"),
        pytest.param({"batcher": {}}, "config: is dict, expected Config", id="dictionary"),
        pytest.param("server.toml", "config: is str, expected Config.*load_config", id="path"),
        pytest.param(Config, "config: is StructMeta, expected Config", id="the class"),
        pytest.param(
            Config(batcher=BatcherConfig(max_batch_size=0)),
            r"config: .*>= 1.*batcher\.max_batch_size",
            id="out of range",
        ),
        pytest.param(
            Config(batcher={"max_batch_size": "2"}),  # type: ignore[arg-type]
            r"config: .*`int \| null`.*batcher\.max_batch_size",
            id="text for a number",
        ),
        pytest.param(Config(server=object()), "config: .*object", id="any object"),  # type: ignore[arg-type]
    ],
)
def test_configuration_made_in_python_is_held_to_what_a_files_is(
    reference_bundle: Path, config: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Recommender.open(reference_bundle, config)  # type: ignore[arg-type]


def test_closed_recommender_says_so() -> None:
    pipeline = SummingPipeline()
    with closing(Recommender(make_generation(pipeline))) as recommender:
        recommender.recommend([RecommendRequest(KNOWN)])
    for use in (
        lambda: recommender.recommend([RecommendRequest(KNOWN)]),
        lambda: recommender.recommend([]),
        lambda: recommender.encode_users([KNOWN]),
        lambda: recommender.item_vectors,
        lambda: recommender.item_ids,
    ):
        with pytest.raises(RecommenderClosed, match="is closed; open the bundle again"):
            use()
    recommender.close()
    assert pipeline.num_closed == 1


def test_item_vectors_are_not_to_be_written_to(recommender: Recommender) -> None:
    before = recommender.item_vectors.copy()
    with pytest.raises(ValueError, match="read-only"):
        recommender.item_vectors[0] = 0
    np.testing.assert_array_equal(recommender.item_vectors, before)
