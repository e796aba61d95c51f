"""Recorded traces: replayed as they are, refused with the line to mend."""

from pathlib import Path

import pytest

from engine.request import Interaction
from engine.rpc.wire import decode_request
from llmsrec.v1 import recommender_pb2 as pb
from perf.errors import MeasureError
from perf.load.schedule import Schedule
from perf.load.trace import read_trace

FIRST = '{"offset_ms": 0, "history": [{"item_id": "5", "timestamp_ms": 12}, {"item_id": "é"}]}'
SECOND = '{"offset_ms": 1500.5, "history": [{"item_id": "7"}], "k": 3}'


def read(tmp_path: Path, *lines: str, warm_up_s: float = 0.0) -> Schedule:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return read_trace(path, warm_up_s)


def test_trace_is_replayed_as_it_was_recorded(tmp_path: Path) -> None:
    schedule = read(tmp_path, FIRST, SECOND, SECOND.replace("1500.5", "2000"), warm_up_s=1.0)
    assert schedule.send_times_s.tolist() == [0.0, 1.5005, 2.0]
    assert (schedule.warm_up_s, schedule.duration_s, schedule.num_measured()) == (1.0, 1.0, 2)
    assert schedule.message_rows.tolist() == [0, 1, 1]
    first, second = (decode_request(pb.RecommendRequest.FromString(m)) for m in schedule.messages)
    assert (first.history, first.k) == ([Interaction("5", 12), Interaction("é")], None)
    assert (second.history, second.k) == ([Interaction("7")], 3)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ('{"offset_ms": 1}', "`history`"),
        ('{"offset_ms": -1, "history": []}', "`$.offset_ms`"),
        ('{"offset_ms": 1, "history": [], "n": 1}', "unknown field `n`"),
        ('{"offset_ms": 1, "history": [{"item_id": "5", "timestamp": 1}]}', "`timestamp`"),
        ('{"offset_ms": 1, "history": [{"item_id": 5}]}', "`$.history[0].item_id`"),
        ('{"offset_ms": 1, "history": [], "k": -1}', "k: -1 is not between"),
        ('{"offset_ms": 1, "history": [{"item_id": "5", "timestamp_ms": 9e99}]}', "timestamp_ms"),
    ],
)
def test_bad_line_is_named_with_its_number(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(MeasureError) as caught:
        read(tmp_path, FIRST, line, SECOND)
    assert f"{tmp_path / 'trace.jsonl'}, line 2: " in str(caught.value)
    assert problem in str(caught.value)
    assert str(caught.value).endswith("; mend or drop the line")


def test_unsorted_trace_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"line 3: offset_ms 0 is before .*\(1500.5\); sort the"):
        read(tmp_path, FIRST, SECOND, FIRST)


@pytest.mark.parametrize("lines", [[], [FIRST], [FIRST, SECOND]], ids=len)
def test_trace_no_longer_than_the_warm_up_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(MeasureError, match=r"before the warm-up of 1.5005 s does; lower --warm-up"):
        read(tmp_path, *lines, warm_up_s=1.5005)


def test_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"cannot read the trace .*absent: No such file"):
        read_trace(tmp_path / "absent", 0.0)
