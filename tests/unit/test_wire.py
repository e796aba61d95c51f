"""The messages and the engine's types say the same."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import CallFailed, InvalidRequest
from engine.request import (
    IgnoredInteraction,
    IgnoredReason,
    Interaction,
    MicroBatch,
    RankedItem,
    Recommendation,
    RecommendRequest,
    StageTimings,
)
from engine.rpc.wire import (
    decode_recommendation,
    decode_request,
    encode_recommendation,
    encode_request,
)
from llmsrec.v1 import recommender_pb2 as pb

ITEM_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TIMESTAMPS = st.none() | st.integers(-(2**63), 2**63 - 1)
REQUESTS = st.builds(
    RecommendRequest,
    history=st.lists(st.builds(Interaction, ITEM_IDS, TIMESTAMPS), max_size=4),
    k=st.none() | st.integers(0, 2**32 - 1),
    include_seen=st.booleans(),
    excluded_item_ids=st.lists(ITEM_IDS, max_size=3),
)
RECOMMENDATION = Recommendation(
    items=[RankedItem("b", "Title of b", 2.5), RankedItem("a", "", -1.0)],
    model_version="model-1",
    catalogue_version="catalogue-1",
    ignored=[
        IgnoredInteraction(0, "x", IgnoredReason.BEYOND_WINDOW),
        IgnoredInteraction(3, "y", IgnoredReason.UNKNOWN_ITEM),
    ],
    num_used_interactions=7,
    num_prompt_tokens=120,
    micro_batch=MicroBatch(num_prompts=3, longest_prompt_tokens=150),
    timings=StageTimings(render_ms=0.5, queue_ms=1, encode_ms=2, retrieve_ms=4, total_ms=8),
)


@settings(deadline=None)
@given(REQUESTS)
def test_request_survives_the_wire(request: RecommendRequest) -> None:
    message = pb.RecommendRequest.FromString(encode_request(request).SerializeToString())
    assert decode_request(message) == request


def test_recommendation_survives_the_wire() -> None:
    message = encode_recommendation(RECOMMENDATION)
    assert decode_recommendation(message) == RECOMMENDATION
    assert message.num_ignored_interactions == 2


def test_older_server_tells_no_micro_batch() -> None:
    message = encode_recommendation(replace(RECOMMENDATION, micro_batch=None))
    assert not message.HasField("micro_batch")
    assert decode_recommendation(message).micro_batch is None


def test_absent_k_is_left_to_the_server() -> None:
    assert decode_request(pb.RecommendRequest()).k is None
    assert decode_request(pb.RecommendRequest(k=0)).k == 0


def test_absent_timestamp_is_not_1970() -> None:
    history = [pb.Interaction(item_id="a"), pb.Interaction(item_id="a", timestamp_ms=0)]
    decoded = decode_request(pb.RecommendRequest(history=history)).history
    assert [interaction.timestamp_ms for interaction in decoded] == [None, 0]


def test_empty_item_id_is_refused_with_its_path() -> None:
    history = [pb.Interaction(item_id="a"), pb.Interaction(timestamp_ms=1)]
    with pytest.raises(InvalidRequest, match=r"^history\[1\]\.item_id: is empty"):
        decode_request(pb.RecommendRequest(history=history))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": -1}, "k"),
        ({"k": 2**32}, "k"),
        ({"excluded_item_ids": ["\udcff"]}, "excluded_item_ids"),
        ({"history": [Interaction("a"), Interaction("\udcff")]}, "history[1].item_id"),
        ({"history": [Interaction("a", 2**63)]}, "history[0].timestamp_ms"),
    ],
)
def test_value_that_the_wire_cannot_hold_is_refused(change: dict[str, object], field: str) -> None:
    request = RecommendRequest([Interaction("a")])
    with pytest.raises(InvalidRequest) as caught:
        encode_request(replace(request, **change))  # type: ignore[arg-type]
    assert caught.value.field == field


def test_only_the_first_hundred_ignored_are_listed_and_all_are_counted() -> None:
    ignored = [IgnoredInteraction(i, "x", IgnoredReason.UNKNOWN_ITEM) for i in range(250)]
    message = encode_recommendation(replace(RECOMMENDATION, ignored=ignored))
    assert [listed.index for listed in message.ignored_interactions] == list(range(100))
    assert message.num_ignored_interactions == 250


def test_reason_of_a_newer_server_is_reported() -> None:
    message = encode_recommendation(RECOMMENDATION)
    message.ignored_interactions[0].ClearField("reason")
    with pytest.raises(CallFailed, match="upgrade the client"):
        decode_recommendation(message)


def test_every_reason_has_a_number() -> None:
    for reason in IgnoredReason:
        ignored = [IgnoredInteraction(0, "x", reason)]
        message = encode_recommendation(replace(RECOMMENDATION, ignored=ignored))
        assert pb.IgnoredInteraction.Reason.Name(message.ignored_interactions[0].reason) == (
            f"REASON_{reason.name}"
        )
