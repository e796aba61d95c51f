"""Lays an outcome out as lines of text."""

from perf.load.outcome import Outcome
from perf.load.result import MIN_SENT_SHARE, Latency, LoadResult
from perf.load.search import RateSearch


def describe(outcome: Outcome) -> list[str]:
    lines = []
    if outcome.search is not None:
        lines += [*_describe_search(outcome.search, outcome.options.objective_ms), ""]
    if outcome.result is not None:
        lines += _describe_result(outcome.result)
    return [*lines, f"answers   {outcome.answers_checked}"]


def explain_void(outcome: Outcome) -> str:
    """Say why the figures are not the server's, and what to do; nothing where they are."""
    remedy = "raise --processes, or run the clients on a machine of their own"
    if not outcome.is_void():
        return ""
    if outcome.search is not None:
        return (
            "VOID: the search ended where the clients no longer sent the target rate, so the"
            f" server may take more than this; {remedy}"
        )
    assert outcome.result is not None
    return (
        f"VOID: the clients sent {outcome.result.achieved_rate:.2f} of"
        f" {outcome.result.target_rate:.2f} requests/s, less than {MIN_SENT_SHARE:.0%}, so this"
        f" measured them and not the server; lower --rate, {remedy}"
    )


def explain_best(search: RateSearch, objective_ms: float) -> str:
    if search.best_rate is None:
        return f"no rate from {search.trials[0].rate:.4g}/s on met {objective_ms:g} ms at p99"
    return f"{search.best_rate:.4g}/s is the highest rate that met {objective_ms:g} ms at p99"


def _describe_search(search: RateSearch, objective_ms: float) -> list[str]:
    lines = [explain_best(search, objective_ms), ""]
    lines.append(f"{'rate/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'good':>9}  objective")
    for trial in search.trials:
        latency = trial.result.latency
        times = f"{latency.p50_ms:>10.2f}{latency.p99_ms:>10.2f}" if latency else f"{'-':>10}" * 2
        goodput = f"{trial.result.goodput.share:>9.2%}"
        lines.append(f"{trial.rate:>10.4g}{times}{goodput}  {trial.verdict()}")
    return lines


def _describe_result(result: LoadResult) -> list[str]:
    goodput = result.goodput
    failed = ", ".join(f"{count} {status}" for status, count in result.failures.items())
    lines = [
        f"rate      target {result.target_rate:.2f}/s, sent {result.achieved_rate:.2f}/s"
        f" ({result.achieved_rate / result.target_rate:.1%})",
        f"requests  {result.num_requests}, answered {result.num_answers}, failed:"
        f" {failed or 'none'}",
        f"goodput   {goodput.rate:.2f}/s, {goodput.share:.2%} of the requests answered within"
        f" {goodput.objective_ms:g} ms",
        f"batches   {explain_batches(result)}",
        "",
        f"{'ms':<14}{'p50':>10}{'p90':>10}{'p99':>10}{'p99.9':>10}{'max':>10}",
    ]
    if result.latency is not None:
        lines.append(_describe_times("latency", result.latency))
    lines += [_describe_times(f"  {name}", times) for name, times in label_stages(result).items()]
    if result.send_lag is not None:
        lines.append(_describe_times("send lag", result.send_lag))
    return lines


def explain_batches(result: LoadResult) -> str:
    batches = result.batches
    if batches is None:
        return "not reported: the answers do not tell their micro-batches"
    return (
        f"of {batches.mean_prompts:.2f} prompts on average, {batches.padding_share:.1%} padding,"
        f" {batches.tokens_per_s:,.0f} prompt tokens/s"
    )


def label_stages(result: LoadResult) -> dict[str, Latency]:
    """Name the server's stages as one says them."""
    names = {name: name.removesuffix("_ms") for name in result.stages}
    names["total_ms"] = "in server"
    return {names[name]: times for name, times in result.stages.items()}


def _describe_times(name: str, times: Latency) -> str:
    columns = (times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms)
    return f"{name:<14}" + "".join(f"{column:>10.2f}" for column in columns)
