"""Makes one page of an outcome, which needs nothing but a browser."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import msgspec

from perf.load.outcome import Outcome
from perf.load.plots import (
    draw_batch_sizes,
    draw_moments,
    draw_padding,
    draw_percentiles,
    draw_rates,
    draw_stages,
    write_ms,
)
from perf.load.result import Latency, LoadResult
from perf.load.search import Search
from perf.load.settings import Drawn
from perf.load.summary import explain_batches, explain_best, explain_void, label_stages

PAGE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
TRIAL_HEADER = ["requests/s", "sent/s", "p50 ms", "p99 ms", "good", "failed", "objective"]
LATENCY_HEADER = ["ms", "p50", "p90", "p99", "p99.9", "max"]


def render_report(outcome: Outcome) -> str:
    environment = outcome.environment
    void = explain_void(outcome)
    return PAGE.substitute(
        title=_title(outcome),
        origin=f"{environment.started} UTC · <code>{escape(environment.command)}</code>",
        banner=f'<p class="void">{escape(void)}</p>' if void else "",
        tiles="".join(_tile(*tile) for tile in _tiles(outcome)),
        figures="".join(_figure(*figure) for figure in _figures(outcome)),
        tables="".join(_tables(outcome)),
        facts="".join(_facts(outcome)),
    )


def _title(outcome: Outcome) -> str:
    objective_ms = outcome.settings.clients.objective_ms
    if outcome.search is not None:
        return f"Highest rate within {objective_ms:g} ms at p99"
    assert outcome.result is not None
    return f"Load of {outcome.result.target_rate:.4g} requests per second"


def _tiles(outcome: Outcome) -> Iterable[tuple[str, str]]:
    """Give each figure and what it is."""
    if outcome.search is not None:
        best_rate = outcome.search.best_rate
        yield "none" if best_rate is None else f"{best_rate:.4g}/s", "highest rate that met it"
        yield f"{len(outcome.search.trials)}", "rates tried"
    if (result := outcome.result) is None:
        return
    sent = result.achieved_rate / result.target_rate
    yield f"{result.achieved_rate:.4g}/s", f"sent, {sent:.1%} of the target"
    if result.latency is not None:
        yield f"{write_ms(result.latency.p50_ms)} ms", "median latency"
        yield f"{write_ms(result.latency.p99_ms)} ms", "p99 latency"
    goodput = result.goodput
    yield f"{goodput.share:.2%}", f"answered within {goodput.objective_ms:g} ms"
    if (batches := result.batches) is not None:
        yield f"{batches.padding_share:.1%}", "of the padded tokens are padding"
        yield f"{batches.tokens_per_s:,.0f}/s", "prompt tokens served"
    yield f"{sum(result.failures.values())}", f"of {result.num_requests} requests failed"


def _figures(outcome: Outcome) -> Iterable[tuple[str, str]]:
    """Give the title and the drawing of each figure."""
    load, objective_ms = outcome.settings.load, outcome.settings.clients.objective_ms
    where = ""
    if outcome.search is not None:
        yield "Latency by rate", draw_rates(outcome.search, objective_ms)
        where = " at the highest rate that met the objective"
    if (result := outcome.result) is None or result.latency is None:
        return
    overloads = load.pace.overloads if isinstance(load, Drawn) else ()
    yield f"Latency over time{where}", draw_moments(result, overloads)
    yield f"Latency by percentile{where}", draw_percentiles(result, objective_ms)
    yield f"Stages in the server{where}", draw_stages(result)
    batches = result.batches
    missing = f"<p>{explain_batches(result)}</p>"
    yield f"Batch sizes{where}", draw_batch_sizes(batches) if batches else missing
    yield f"Padding waste{where}", draw_padding(batches) if batches else missing


def _tables(outcome: Outcome) -> Iterable[str]:
    if outcome.search is not None:
        heading = explain_best(outcome.search, outcome.settings.clients.objective_ms)
        yield _table(heading, TRIAL_HEADER, _trial_rows(outcome.search))
    if (result := outcome.result) is not None:
        yield _table("Times", LATENCY_HEADER, _time_rows(result))
        if result.failures:
            rows = ([status, str(count)] for status, count in result.failures.items())
            yield _table("Failures", ["gRPC status", "requests"], rows)


def _facts(outcome: Outcome) -> Iterable[str]:
    for title, facts in (
        ("Settings", outcome.settings),
        ("Machine and versions", outcome.environment),
    ):
        yield _table(title, [], _list_facts("", msgspec.to_builtins(facts)))


def _trial_rows(search: Search) -> Iterable[list[str]]:
    for trial in search.trials:
        result = trial.result
        latency = result.latency
        times = [f"{latency.p50_ms:.2f}", f"{latency.p99_ms:.2f}"] if latency else ["-", "-"]
        num_failed = sum(result.failures.values())
        yield [
            f"{trial.rate:.4g}",
            f"{result.achieved_rate:.4g}",
            *times,
            f"{result.goodput.share:.2%}",
            f"{num_failed} of {result.num_requests}",
            trial.verdict(),
        ]


def _time_rows(result: LoadResult) -> Iterable[list[str]]:
    if result.latency is not None:
        yield _time_row("latency, from the intended time of sending", result.latency)
    for name, times in label_stages(result).items():
        yield _time_row(name, times)
    yield _time_row("send lag of the clients", result.send_lag)


def _time_row(name: str, times: Latency) -> list[str]:
    return [name, *(f"{time_ms:.2f}" for time_ms in msgspec.structs.astuple(times))]


def _list_facts(path: str, value: object) -> Iterable[list[str]]:
    """Flatten nested values to rows of a dotted path and a text."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _list_facts(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _list_facts(f"{path}[{number}]", inner)
    else:
        yield [path, f"{value:g}" if isinstance(value, float) else str(value)]


def _tile(figure: str, name: str) -> str:
    return f'<div class="tile"><b>{escape(figure)}</b><span>{escape(name)}</span></div>'


def _figure(title: str, drawing: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{drawing}</section>"


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return f"<section><h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table></section>"


def _cells(row: Sequence[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in row)
