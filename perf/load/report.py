"""Makes one page of an outcome, which needs nothing but a browser."""

from collections.abc import Iterator
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
)
from perf.load.summary import describe, explain_batches, explain_void

PAGE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))


def render_report(outcome: Outcome) -> str:
    """Lay out the summary as it is printed, the drawings, and what the run was made with."""
    environment = outcome.environment
    void = explain_void(outcome)
    facts = msgspec.to_builtins({"options": outcome.options, "environment": environment})
    return PAGE.substitute(
        title=_title(outcome),
        started=environment.started,
        command=escape(environment.command),
        banner=f'<p class="void">{escape(void)}</p>' if void else "",
        summary=escape("\n".join(describe(outcome))),
        figures="".join(
            f"<section><h2>{escape(title)}</h2>{drawing}</section>"
            for title, drawing in _figures(outcome)
        ),
        facts=escape(msgspec.json.format(msgspec.json.encode(facts)).decode()),
    )


def _title(outcome: Outcome) -> str:
    if outcome.search is not None:
        return f"Highest rate within {outcome.options.objective_ms:g} ms at p99"
    assert outcome.result is not None
    return f"Load of {outcome.result.target_rate:.4g} requests per second"


def _figures(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Give the title and the drawing of each figure."""
    options = outcome.options
    where = ""
    if outcome.search is not None:
        yield "Latency by rate", draw_rates(outcome.search, options.objective_ms)
        where = " at the highest rate that met the objective"
    if (result := outcome.result) is None or result.latency is None:
        return
    yield f"Latency over time{where}", draw_moments(result, options.overloads)
    yield f"Latency by percentile{where}", draw_percentiles(result, options.objective_ms)
    yield f"Stages in the server{where}", draw_stages(result)
    batches = result.batches
    missing = f"<p>{explain_batches(result)}</p>"
    yield f"Batch sizes{where}", draw_batch_sizes(batches) if batches else missing
    yield f"Padding waste{where}", draw_padding(batches) if batches else missing
