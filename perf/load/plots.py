"""Draws figures as SVG, to stand inside a page."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from perf.load.batches import Batches
from perf.load.options import Overload
from perf.load.result import LoadResult
from perf.load.search import RateSearch
from perf.load.summary import label_stages

MEDIAN_COLOUR, TAIL_COLOUR, MAX_COLOUR = "#2f6db3", "#d9730d", "#b9b4aa"
BAD_COLOUR, INK_COLOUR, GRID_COLOUR = "#c0392b", "#3a3a3a", "#e6e4df"
NARROW, WIDE = (6.4, 3.6), (13.4, 3.6)
STYLE = Path(__file__).with_name("report.mplstyle")
MOMENT_LINES = (("max", MAX_COLOUR, 4.0), ("p99", TAIL_COLOUR, 1.8), ("p50", MEDIAN_COLOUR, 1.8))
NINES = [0, 50, 90, 99, 99.9, 99.99, 99.999]


def draw_percentiles(result: LoadResult, objective_ms: float) -> str:
    """Draw latency over percentile, each further nine as wide as the one before it."""
    with style.context(STYLE):
        figure, axes = _start("percentile of the answers", "latency, ms", NARROW)
        percentiles, latencies_ms = np.array(result.curve).T
        above = -np.log10(1 - percentiles / 100)
        axes.plot(above, latencies_ms, color=MEDIAN_COLOUR)
        shown = [nine for nine in NINES if -np.log10(1 - nine / 100) <= above[-1] + 0.05]
        axes.set_xticks([-np.log10(1 - nine / 100) for nine in shown], [f"{n:g}" for n in shown])
        _scale_by_factors(axes)
        _mark_objective(axes, objective_ms)
        axes.legend(loc="best")
        return _to_svg(figure)


def draw_stages(result: LoadResult) -> str:
    """Draw median and p99 of each stage, with its figures beside it."""
    stages = label_stages(result)
    with style.context(STYLE):
        figure, axes = _start("ms", "", NARROW)
        places = np.arange(len(stages))
        medians = [times.p50_ms for times in stages.values()]
        tails = [times.p99_ms for times in stages.values()]
        axes.barh(places - 0.2, medians, 0.36, color=MEDIAN_COLOUR, label="p50")
        axes.barh(places + 0.2, tails, 0.36, color=TAIL_COLOUR, label="p99")
        for place, median, tail in zip(places.tolist(), medians, tails, strict=True):
            axes.annotate(f" {write_ms(median)}", (median, place - 0.2), va="center", fontsize=8)
            axes.annotate(f" {write_ms(tail)}", (tail, place + 0.2), va="center", fontsize=8)
        axes.set_yticks(places, list(stages))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.legend(loc="best")
        return _to_svg(figure)


def draw_batch_sizes(batches: Batches) -> str:
    """Draw which share of the micro-batches had which size."""
    num_batches = sum(size.num_batches for size in batches.sizes)
    shares = [size.num_batches / num_batches for size in batches.sizes]
    return _draw_by_size(batches, shares, "share of the micro-batches")


def draw_padding(batches: Batches) -> str:
    """Draw which share of the padded tokens was padding, by the size of the micro-batch."""
    shares = [size.padding_share for size in batches.sizes]
    return _draw_by_size(batches, shares, "padding, share of the padded tokens")


def _draw_by_size(batches: Batches, shares: Sequence[float], label: str) -> str:
    with style.context(STYLE):
        figure, axes = _start("prompts of a micro-batch", label, NARROW)
        axes.bar([size.num_prompts for size in batches.sizes], shares, color=MEDIAN_COLOUR)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        return _to_svg(figure)


def draw_moments(result: LoadResult, overloads: Sequence[Overload]) -> str:
    """Draw latency over the intended time of sending; overloads are shaded, failures red."""
    with style.context(STYLE):
        figure, axes = _start("intended time of sending, s after the warm-up", "latency, ms", WIDE)
        moments = result.moments
        width_s = moments[1].start_s if len(moments) > 1 else 1.0
        middles_s = [moment.start_s + width_s / 2 for moment in moments]
        for name, colour, width in MOMENT_LINES:
            latencies_ms = [
                getattr(moment.latency, f"{name}_ms") if moment.latency else np.nan
                for moment in moments
            ]
            axes.plot(middles_s, latencies_ms, ".-", color=colour, linewidth=width, label=name)
        for overload in overloads:
            end_s = overload.start_s + overload.duration_s
            axes.axvspan(overload.start_s, end_s, color=GRID_COLOUR, zorder=0)
            axes.annotate(
                f" {overload.factor:g} x the rate",
                (overload.start_s, 1),
                xycoords=("data", "axes fraction"),
                va="top",
            )
        axes.set_ylim(bottom=0)
        _mark_failures(axes, middles_s, [moment.num_failed for moment in moments], width_s)
        axes.legend(loc="best")
        return _to_svg(figure)


def draw_rates(search: RateSearch, objective_ms: float) -> str:
    """Draw p50 and p99 over the rates tried; a void trial is drawn hollow."""
    with style.context(STYLE):
        figure, axes = _start("requests per second", "latency, ms", WIDE)
        trials = [trial for trial in search.trials if trial.result.latency is not None]
        rates = [trial.rate for trial in trials]
        for name, colour in (("p99", TAIL_COLOUR), ("p50", MEDIAN_COLOUR)):
            latencies_ms = [getattr(trial.result.latency, f"{name}_ms") for trial in trials]
            axes.plot(rates, latencies_ms, "o-", color=colour, label=name)
            for trial, latency_ms in zip(trials, latencies_ms, strict=True):
                if trial.result.is_void:
                    axes.plot(trial.rate, latency_ms, "o", color=colour, markerfacecolor="white")
        _scale_by_factors(axes)
        _mark_objective(axes, objective_ms)
        if search.best_rate is not None:
            axes.axvline(search.best_rate, color=INK_COLOUR, linewidth=1, linestyle=":")
        axes.legend(loc="best")
        return _to_svg(figure)


def _start(x_label: str, y_label: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _scale_by_factors(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _mark_objective(axes: Axes, objective_ms: float) -> None:
    label = f"objective, {objective_ms:g} ms"
    axes.axhline(objective_ms, color=BAD_COLOUR, linewidth=1, linestyle="--", label=label)


def _mark_failures(
    axes: Axes, middles_s: Sequence[float], num_failed: Sequence[int], width_s: float
) -> None:
    if any(num_failed):
        counts = axes.twinx()
        counts.bar(middles_s, num_failed, width_s * 0.8, color=BAD_COLOUR, alpha=0.35)
        counts.set_ylabel("failed requests", color=BAD_COLOUR)
        counts.grid(visible=False)


def _to_svg(figure: Figure) -> str:
    """Give the <svg> element alone."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def write_ms(milliseconds: float) -> str:
    """Write three digits or more, and no exponent."""
    num_decimals = 0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2
    return f"{milliseconds:,.{num_decimals}f}"
