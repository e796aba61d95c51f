"""An answer, laid out for a terminal."""

from dataclasses import replace

import pytest

from engine.commands.description import describe
from engine.request import (
    IgnoredInteraction,
    IgnoredReason,
    MicroBatch,
    RankedItem,
    Recommendation,
    StageTimings,
)

ANSWER = Recommendation(
    items=[RankedItem("a-long-id", "First", 12.5), RankedItem("b", "Second", -0.25)],
    model_version="m",
    catalogue_version="c",
    ignored=[IgnoredInteraction(1, "x", IgnoredReason.UNKNOWN_ITEM)],
    num_used_interactions=2,
    num_prompt_tokens=120,
    micro_batch=MicroBatch(num_prompts=3, longest_prompt_tokens=150),
    timings=StageTimings(0.25, 1, 20, 0.5, 21.75),
)


def test_answer_is_described_in_full() -> None:
    assert describe(ANSWER, 5) == [
        "rank     score  id         title",
        "   1   12.5000  a-long-id  First",
        "   2   -0.2500  b          Second",
        "",
        "render 0.25 ms, queue 1.00 ms, encode 20.00 ms, retrieve 0.50 ms, total 21.75 ms",
        "model m, catalogue c",
        "used 2 of 5 interactions",
        "prompt of 120 tokens, one of 3 encoded together, the longest of 150 tokens",
        "ignored 1: x (unknown item)",
        "ignored 2 more",
    ]
    assert describe(ANSWER, 3)[-1] == "ignored 1: x (unknown item)"
    assert not any("prompt" in line for line in describe(replace(ANSWER, micro_batch=None), 5))


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        pytest.param("Amélie — 天気の子", "Amélie — 天気の子", id="letters of any script"),
        pytest.param("Two\nLines\r\tTab", r"Two\nLines\r\tTab", id="line breaks and tabs"),
        pytest.param("\x1b[31mRed\x1b[0m", r"\x1b[31mRed\x1b[0m", id="colours"),
        pytest.param("\u202egnp.exe", r"\u202egnp.exe", id="right-to-left override"),
        pytest.param("a\u2028b\x85c", r"a\u2028b\x85c", id="line separators of Unicode"),
        pytest.param("👩\u200d🚀", "👩\u200d🚀", id="emoji that a joiner makes one"),
        pytest.param("a\xa0b", "a\xa0b", id="no-break space"),
        pytest.param("\ud800", r"\ud800", id="half a surrogate pair"),
    ],
)
def test_what_a_catalogue_holds_cannot_change_the_terminal(title: str, shown: str) -> None:
    items = [RankedItem(title, title, 1.0)]
    ignored = [IgnoredInteraction(0, title, IgnoredReason.UNKNOWN_ITEM)]
    lines = describe(replace(ANSWER, items=items, ignored=ignored, model_version=title), 3)
    assert lines[1] == f"   1    1.0000  {shown}  {shown}"
    assert f"model {shown}, catalogue c" in lines
    assert lines[-1] == f"ignored 0: {shown} (unknown item)"
