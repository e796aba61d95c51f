"""What a comparison prints, and which peer it names."""

import re

import numpy as np
import pytest

from perf.compare.contenders import PEERS, REFERENCE
from perf.compare.result import (
    BARS,
    Comparison,
    Quality,
    Row,
    ServiceRow,
    Times,
    best_peer,
    judge,
    summarise,
)
from perf.compare.table import describe
from perf.environment import describe_environment

EQUAL = Quality(cosine_min=1.0, cosine_mean=1.0, overlap_at_10=1.0, is_equal=True)
UNEQUAL = Quality(cosine_min=0.5, cosine_mean=0.6, overlap_at_10=0.7, is_equal=False)


def times(median_ms: float) -> Times:
    return Times(median_ms=median_ms, p25_ms=median_ms - 1, p75_ms=median_ms + 1)


def make_rows() -> list[Row]:
    return [
        Row(name="slow", precision="fp32", quality=EQUAL, times=times(400)),
        Row(name="best", precision="fp32", quality=EQUAL, times=times(200), versions={"lib": "7"}),
        Row(name="mine", precision="fp32", is_ours=True, quality=EQUAL, times=times(100)),
        Row(name="wrong", precision="bf16", quality=UNEQUAL, times=times(10)),
        Row(name="broken", precision="fp32", quality=EQUAL, problem="failed: killed by SIGSEGV"),
        Row(name="gone", precision="fp32", problem="absent, there is no module gone"),
    ]


def make_services() -> list[ServiceRow]:
    ours = ServiceRow(
        name="mine", is_ours=True, answers_overlap=1.0, is_equal=True, times=times(150)
    )
    plain = ServiceRow(name="plain", answers_overlap=1.0, is_equal=True, times=times(600))
    plain.answers_per_s, plain.versions = 1.25, {"http": "2"}
    return [ours, plain, ServiceRow(name="down", problem="failed: refused")]


def make_comparison(rows: list[Row], services: list[ServiceRow]) -> Comparison:
    return Comparison(
        environment=describe_environment("model-1", "catalogue-1"),
        num_prompts=3,
        mean_tokens=350.4,
        num_users=2,
        num_rounds=5,
        num_threads=2,
        num_clients=4,
        rows=rows,
        services=services,
    )


def cells(lines: list[str], name: str) -> list[str]:
    """Give the cells of the first table row of that name."""
    line = next(line for line in lines if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_unequal_peer_is_shown_but_never_ranked() -> None:
    lines = describe(make_comparison(make_rows(), []))
    assert cells(lines, "wrong")[1:] == ["0.50000", "0.60000", "0.700", "NO", "10", "9-11", "-"]
    assert cells(lines, "best")[4:] == ["yes", "200", "199-201", "1.00"]
    assert cells(lines, "slow")[-1] == "2.00"
    assert cells(lines, "mine")[-1] == "0.50"
    assert "mine takes 0.50 x the time of best, the fastest peer of equal quality" in lines


def test_what_failed_or_is_absent_says_why() -> None:
    lines = describe(make_comparison(make_rows(), make_services()))
    assert cells(lines, "gone")[1:] == ["-"] * 7
    assert cells(lines, "broken")[4:] == ["yes", "-", "-", "-"]
    for text in (
        "broken: failed: killed by SIGSEGV",
        "gone: absent, there is no module gone",
        "down: failed: refused",
    ):
        assert text in lines


def test_services_stand_beside_the_plain_one() -> None:
    lines = describe(make_comparison(make_rows()[:1], make_services()))
    assert cells(lines, "mine") == ["mine", "1.000", "yes", "150", "149-151", "0.25", "-"]
    assert cells(lines, "plain") == ["plain", "1.000", "yes", "600", "599-601", "1.00", "1.25"]
    assert cells(lines, "down")[1:] == ["-"] * 6


def test_conditions_and_versions_are_named() -> None:
    text = "\n".join(describe(make_comparison(make_rows(), make_services())))
    assert re.search(r"2 threads, load average \d", text)
    assert "3 prompts of 350 tokens on average, 2 to a forward; 5 rounds" in text
    assert re.search(r"python 3\.\d+\.\d+, lib 7, http 2", text)


def test_every_line_of_a_table_is_as_wide_as_its_heading() -> None:
    lines = [line for line in describe(make_comparison(make_rows(), [])) if line[:1] == "|"]
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == set("|- ")


def test_without_an_equal_peer_there_is_no_best() -> None:
    rows = [row for row in make_rows() if row.name not in {"slow", "best"}]
    assert best_peer(rows) is None
    assert "no peer gave equal vectors, so there is none to stand beside" in describe(
        make_comparison(rows, [])
    )


def test_every_peer_has_a_bar_and_the_reference_is_one_of_them() -> None:
    assert {peer.precision for peer in PEERS} <= set(BARS)
    assert REFERENCE in PEERS
    assert len({peer.name for peer in PEERS}) == len(PEERS)


@pytest.mark.parametrize(
    ("precision", "cosine", "is_equal"),
    [
        ("fp32", 0.9999, False),
        ("bf16", 0.9995, True),
        ("bf16", 0.9985, False),
        ("int8", 0.995, True),
        ("int8", 0.985, False),
    ],
)
def test_bar_depends_on_the_precision(precision: str, cosine: float, *, is_equal: bool) -> None:
    items = np.eye(12, 2, dtype=np.float32)  # one item along the user, one across, ten of no length
    expected = np.array([[1.0, 0.0]], np.float32)
    turned = np.array([[cosine, (1 - cosine**2) ** 0.5]], np.float32)
    quality = judge(turned, expected, items, precision)
    assert quality.cosine_min == pytest.approx(cosine, abs=1e-6)
    assert quality.is_equal is is_equal


def test_times_are_summed_up_by_their_quartiles() -> None:
    assert summarise([5.0, 1.0, 2.0, 3.0, 100.0]) == Times(median_ms=3.0, p25_ms=2.0, p75_ms=5.0)
