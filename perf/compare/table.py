"""Lays a comparison out as text: tables in Markdown, then what stands in no table."""

from collections.abc import Iterator, Sequence

from perf.compare.result import Comparison, Row, ServiceRow, Times, best_peer

HEADINGS = ("forward", "cosine min", "mean", "overlap@10", "equal", "median ms", "p25-p75", "ratio")
NOTHING = "-"


def describe(comparison: Comparison) -> list[str]:
    environment = comparison.environment
    lines = [
        f"{environment.machine}, {comparison.num_threads} threads, load average"
        f" {environment.load_average:.2f} before the run",
        f"{comparison.num_prompts} prompts of {comparison.mean_tokens:.0f} tokens on average,"
        f" {comparison.num_users} to a forward; {comparison.num_rounds} rounds, each way in turn",
        "",
        *_lay_out(HEADINGS, _forward_cells(comparison.rows)),
        "",
    ]
    if comparison.services:
        lines += [*_describe_services(comparison.services, comparison.num_clients), ""]
    lines += [f"{row.name}: {row.problem}" for row in comparison.rows if row.problem]
    lines += [f"{row.name}: {row.problem}" for row in comparison.services if row.problem]
    return [*lines, *_verdicts(comparison.rows), _describe_versions(comparison)]


def _forward_cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    best = best_peer(rows)
    for row in rows:
        quality = row.quality
        if quality is None:
            cells = [NOTHING] * 4
        else:
            cosines = [f"{quality.cosine_min:.5f}", f"{quality.cosine_mean:.5f}"]
            cells = [*cosines, f"{quality.overlap_at_10:.3f}", "yes" if quality.is_equal else "NO"]
        is_ranked = best is not None and quality is not None and quality.is_equal
        yield [row.name, *cells, *_time_cells(row.times, best[1] if best and is_ranked else None)]


def _describe_services(services: Sequence[ServiceRow], num_clients: int) -> list[str]:
    plain = [row.times for row in services if row.times and row.is_equal and not row.is_ours]
    headings = ("service", *HEADINGS[3:], f"answers/s, {num_clients} clients")
    rows = []
    for row in services:
        cells = [NOTHING] * 2
        if row.answers_overlap is not None:
            cells = [f"{row.answers_overlap:.3f}", "yes" if row.is_equal else "NO"]
        base = plain[0] if plain and row.is_equal else None
        rate = NOTHING if row.answers_per_s is None else f"{row.answers_per_s:.2f}"
        rows.append([row.name, *cells, *_time_cells(row.times, base), rate])
    return _lay_out(headings, rows)


def _verdicts(rows: Sequence[Row]) -> list[str]:
    best = best_peer(rows)
    if best is None:
        return ["no peer gave equal vectors, so there is none to stand beside"]
    peer, peer_times = best
    return [
        f"{row.name} takes {row.times.median_ms / peer_times.median_ms:.2f} x the time of"
        f" {peer.name}, the fastest peer of equal quality"
        for row in rows
        if row.is_ours and row.times
    ]


def _describe_versions(comparison: Comparison) -> str:
    versions = {"python": comparison.environment.versions["python"]}
    for row in comparison.rows:
        versions |= row.versions
    for service in comparison.services:
        versions |= service.versions
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _time_cells(times: Times | None, base: Times | None) -> list[str]:
    """Give the median, its spread, and its ratio to `base` where it has one."""
    if times is None:
        return [NOTHING] * 3
    ratio = NOTHING if base is None else f"{times.median_ms / base.median_ms:.2f}"
    return [f"{times.median_ms:.0f}", f"{times.p25_ms:.0f}-{times.p75_ms:.0f}", ratio]


def _lay_out(headings: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> list[str]:
    cells = [list(headings), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in cells
    ]
