"""The page and the summary of an outcome."""

import re
from xml.etree import ElementTree

import msgspec
import pytest

from perf.environment import describe_environment
from perf.load.batches import Batches, BatchSize
from perf.load.options import LoadOptions, Overload
from perf.load.outcome import Outcome
from perf.load.plots import draw_batch_sizes, draw_padding, write_ms
from perf.load.report import render_report
from perf.load.result import Goodput, Latency, LoadResult, Moment
from perf.load.search import RateSearch, Trial
from perf.load.summary import describe, explain_void

BATCHES = Batches(
    mean_prompts=2.5,
    padding_share=0.125,
    tokens_per_s=1234.5,
    sizes=[
        BatchSize(num_prompts=1, num_batches=2.0, padding_share=0.0),
        BatchSize(num_prompts=4, num_batches=1.5, padding_share=0.25),
    ],
)
LATENCY = Latency(11.0, 22.0, 33.0, 44.0, 55.0)


def make_result(*, rate: float = 100.0, sent: float = 100.0, num_answers: int = 90) -> LoadResult:
    return LoadResult(
        is_void=sent < 99,
        target_rate=rate,
        achieved_rate=sent,
        num_requests=100,
        num_answers=num_answers,
        failures={"UNAVAILABLE": 100 - num_answers},
        goodput=Goodput(objective_ms=30.0, share=0.8, rate=80.0),
        latency=LATENCY if num_answers else None,
        send_lag=Latency(0.1, 0.2, 0.3, 0.4, 0.5),
        stages={"encode_ms": LATENCY, "total_ms": LATENCY} if num_answers else {},
        batches=BATCHES if num_answers else None,
        curve=[(0.0, 5.0), (90.0, 22.0), (99.0, 33.0)] if num_answers else [],
        moments=[
            Moment(start_s=0.0, num_answers=num_answers, num_failed=0, latency=LATENCY),
            Moment(start_s=5.0, num_answers=0, num_failed=100 - num_answers, latency=None),
        ],
    )


def make_outcome(result: LoadResult | None, search: RateSearch | None = None) -> Outcome:
    overloads = (Overload(2.0, 3.0, 4.0),)
    return Outcome(
        describe_environment("model-1", "<catalogue>"),
        LoadOptions(rate=100.0, duration_s=10.0, overloads=overloads, objective_ms=30.0),
        result,
        "3 compared with the bundle's own",
        search,
    )


def make_search(best_rate: float | None, *, is_void: bool = False) -> RateSearch:
    trials = [
        Trial(50.0, best_rate is not None, make_result(rate=50.0)),
        Trial(100.0, False, make_result(sent=50.0 if is_void else 100.0)),
        Trial(200.0, False, make_result(rate=200.0, num_answers=0)),
    ]
    return RateSearch(best_rate=best_rate, is_void=is_void, trials=trials)


FIGURES_OF_A_RATE = ["by percentile", "Stages in the server", "Batch sizes", "Padding waste"]
OUTCOMES = {
    "load": make_outcome(make_result()),
    "void load": make_outcome(make_result(sent=50.0)),
    "no answer": make_outcome(make_result(num_answers=0)),
    "search": make_outcome(make_result(rate=50.0), make_search(50.0)),
    "void search": make_outcome(make_result(rate=50.0), make_search(50.0, is_void=True)),
    "search without a best": make_outcome(None, make_search(None)),
}


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_page_is_well_formed_and_needs_nothing_else(outcome: Outcome) -> None:
    page = render_report(outcome)
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r'(?:src|href)="(?!#)', re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    body = page[page.index("<body>") : page.index("</html>")].replace("&nbsp;", " ")
    ElementTree.fromstring(body)
    assert "&lt;catalogue&gt;" in page


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("load", ["over time", *FIGURES_OF_A_RATE]),
        ("no answer", []),
        ("search", ["by rate", "over time", *FIGURES_OF_A_RATE]),
        ("search without a best", ["by rate"]),
    ],
)
def test_page_draws_what_there_is(name: str, titles: list[str]) -> None:
    page = render_report(OUTCOMES[name])
    assert page.count("<svg") == len(titles)
    for title in titles:
        assert title in page


def test_void_is_loud_on_the_page_and_tells_what_to_do() -> None:
    for name in ("void load", "void search"):
        void = explain_void(OUTCOMES[name])
        assert re.match(r"VOID: .*raise --processes", void)
        assert f'<p class="void">{void}</p>' in render_report(OUTCOMES[name])
    for name in ("load", "search", "search without a best"):
        assert explain_void(OUTCOMES[name]) == ""
        assert 'class="void"' not in render_report(OUTCOMES[name])


def test_summary_gives_rates_failures_and_times() -> None:
    lines = describe(OUTCOMES["load"])
    assert lines[:4] == [
        "rate      target 100.00/s, sent 100.00/s (100.0%)",
        "requests  100, answered 90, failed: 10 UNAVAILABLE",
        "goodput   80.00/s, 80.00% of the requests answered within 30 ms",
        "batches   of 2.50 prompts on average, 12.5% padding, 1,234 prompt tokens/s",
    ]
    assert [line.split() for line in lines[6:]] == [
        ["latency", "11.00", "22.00", "33.00", "44.00", "55.00"],
        ["encode", "11.00", "22.00", "33.00", "44.00", "55.00"],
        ["in", "server", "11.00", "22.00", "33.00", "44.00", "55.00"],
        ["send", "lag", "0.10", "0.20", "0.30", "0.40", "0.50"],
        ["answers", "3", "compared", "with", "the", "bundle's", "own"],
    ]


def test_server_that_tells_no_micro_batches_is_not_shown_as_zeros() -> None:
    outcome = make_outcome(msgspec.structs.replace(make_result(), batches=None))
    page = render_report(outcome)
    assert page.count("<svg") == 3
    assert re.search(r"<h2>Batch sizes</h2><p>not reported", page)
    assert re.search(r"<h2>Padding waste</h2><p>not reported", page)
    assert "prompt tokens/s" not in page
    assert "prompt tokens/s" in render_report(OUTCOMES["load"])
    assert describe(outcome)[3].startswith("batches   not reported")


def test_bars_of_batch_sizes_and_padding_are_as_high_as_their_shares() -> None:
    sizes, padding = bar_heights(draw_batch_sizes(BATCHES)), bar_heights(draw_padding(BATCHES))
    assert sizes[0] / sizes[1] == pytest.approx(2.0 / 1.5, rel=1e-2)
    assert padding[0] == 0
    assert padding[1] > 10


def bar_heights(drawing: str) -> list[float]:
    """Read the bars off a drawing: closed paths that are clipped to the axes."""
    paths = re.findall(r'<path d="([^"]*)z\s*" clip-path', drawing)
    heights = []
    for path in paths:
        ordinates = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path)]
        heights.append(max(ordinates) - min(ordinates))
    return heights


def test_summary_of_a_search_names_the_best_rate_and_every_trial() -> None:
    lines = describe(OUTCOMES["search"])
    assert lines[0] == "50/s is the highest rate that met 30 ms at p99"
    assert [line.split()[0] for line in lines[3:6]] == ["50", "100", "200"]
    assert [line.split()[-1] for line in lines[3:6]] == ["met", "missed", "missed"]
    assert describe(OUTCOMES["search without a best"])[0] == "no rate from 50/s on met 30 ms at p99"


@pytest.mark.parametrize(
    ("milliseconds", "written"),
    [(0.275, "0.28"), (16.04, "16.0"), (239.4, "239"), (19873.79, "19,874")],
)
def test_times_are_written_without_an_exponent(milliseconds: float, written: str) -> None:
    assert write_ms(milliseconds) == written
