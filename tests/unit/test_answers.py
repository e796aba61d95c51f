"""What was timed is held to what it should have given: vectors, rankings, and each timed call."""

import itertools
from typing import Any

import numpy as np
import pytest

from perf import timing
from perf.answers import require_rankings, require_vectors, tolerance_of
from perf.errors import WrongAnswer
from perf.timing import Timed, time_calls, time_in_turn

RIGHT = (["a", "b", "c"], [3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    "found",
    [
        RIGHT,
        (["a", "b", "c"], [3.0, 2.02, 0.99]),
        (["a", "b", "d"], [3.0, 2.0, 1.01]),
    ],
    ids=["same", "within the tolerance", "as good as the last"],
)
def test_ranking_within_the_tolerance_passes(found: tuple[list[str], list[float]]) -> None:
    require_rankings("it", [RIGHT, found], [RIGHT, RIGHT], tolerance=0.01)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ((["a", "b"], [3.0, 2.0]), "2 different items of 3"),
        ((["a", "b", "b"], [3.0, 2.0, 2.0]), "2 different items of 3"),
        ((["b", "a", "c"], [2.0, 3.0, 1.0]), "not in order"),
        ((["b", "a", "c"], [3.0, 2.0, 1.0]), "item b has 3 where 2 is right"),
        ((["a", "d", "c"], [3.0, 2.0, 1.0]), "item d has 2 where 1 is right"),
        ((["a", "b", "c"], [3.0, 2.0, float("nan")]), "not in order"),
    ],
)
def test_other_ranking_is_named(found: Any, problem: str) -> None:  # noqa: ANN401
    with pytest.raises(WrongAnswer, match=f"it ranked otherwise .* in ranking 1: .*{problem}"):
        require_rankings("it", [RIGHT, found], [RIGHT, RIGHT], tolerance=0.01)
    with pytest.raises(WrongAnswer, match="1 rankings, not 2"):
        require_rankings("it", [RIGHT], [RIGHT, RIGHT], tolerance=0.01)


def test_vectors_are_held_to_direction_and_length() -> None:
    right = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    require_vectors("it", right * np.float32(1.009), right, tolerance=0.01)
    wrong = [right * np.float32(1.02), right[::-1], right[:1], np.full_like(right, np.nan)]
    for found in wrong:
        with pytest.raises(WrongAnswer, match="it gave"):
            require_vectors("it", found, right, tolerance=0.01)


def test_tolerance_is_that_of_the_precisions_cosine() -> None:
    angle = np.arccos(0.999)
    distance = np.linalg.norm([1 - np.cos(angle), np.sin(angle)])
    assert tolerance_of("fp16") == pytest.approx(distance)


def require_below(most: int, answer: int) -> None:
    if answer >= most:
        raise WrongAnswer(f"answer {answer}")


def test_every_timed_call_is_checked_and_those_of_the_warm_up_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0, 100, 100, 101, 101, 103, 103, 112])
    monkeypatch.setattr("perf.timing.time.perf_counter", lambda: next(clock))
    seen: list[int] = []
    answers = itertools.count()
    assert time_calls(Timed(lambda: next(answers), seen.append), 3, 1) == [1e3, 2e3, 9e3]
    assert seen == [0, 1, 2, 3]


def test_contenders_take_turns_and_one_wrong_answer_ends_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    order: list[str] = []
    answers = itertools.count()
    contenders: dict[str, Timed[Any]] = {
        "right": Timed(lambda: order.append("right"), lambda _: None),
        "wrong": Timed(lambda: next(answers), lambda answer: require_below(3, answer)),
    }
    times_ms = time_in_turn(contenders, num_rounds=2, num_warm_ups=1)
    assert [len(times) for times in times_ms.values()] == [2, 2]
    with pytest.raises(WrongAnswer, match="answer 3"):
        time_in_turn(contenders, num_rounds=2, num_warm_ups=1)
    assert len(order) == 4
