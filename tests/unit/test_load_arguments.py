"""The flags of a load measurement: what they make, and what they refuse."""

import argparse
from pathlib import Path

import pytest

from perf.errors import MeasureError
from perf.load.options import Lengths, LoadOptions, Overload, add_arguments, make_options


def parse(*flags: str, target: str = "127.0.0.1:50051") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([target, *flags])


def test_defaults_are_those_of_the_options() -> None:
    assert make_options(parse("--rate", "20")) == LoadOptions(rate=20.0)


def test_every_flag_reaches_its_option() -> None:
    pacing = "--rate 5 --duration 6 --warm-up 0 --arrivals constant --overload 1+2x3,4+1.5x0.5"
    mixing = "--lengths 1-2=0.5,3-9=2 --zipf 0 --repeat-share 0 -k 3 --seed 4"
    asking = "--processes 3 --deadline-ms 70 --objective-ms 8.5"
    options = make_options(parse(*pacing.split(), *mixing.split(), *asking.split()))
    assert options == LoadOptions(
        rate=5.0,
        duration_s=6.0,
        warm_up_s=0.0,
        arrivals="constant",
        overloads=(Overload(1.0, 2.0, 3.0), Overload(4.0, 1.5, 0.5)),
        lengths=(Lengths(1, 2, 0.5), Lengths(3, 9, 2.0)),
        zipf_exponent=0.0,
        repeat_share=0.0,
        k=3,
        seed=4,
        num_processes=3,
        deadline_ms=70.0,
        objective_ms=8.5,
    )


def test_trace_takes_the_place_of_the_drawing() -> None:
    options = make_options(parse("--trace", "t.jsonl", "--warm-up", "2", "--processes", "1"))
    assert options == LoadOptions(trace="t.jsonl", warm_up_s=2.0, num_processes=1)


@pytest.mark.parametrize(
    "flags",
    [
        "--search",
        "--duration 5",
        "--arrivals constant",
        "--overload 1+1x2",
        "--lengths 1-1=1",
        "--zipf 0",
        "--repeat-share 0",
        "-k 1",
        "--seed 1",
    ],
)
def test_flag_that_a_trace_makes_needless_is_named(flags: str) -> None:
    with pytest.raises(MeasureError, match=f"leave out {flags.split()[0]}, or draw"):
        make_options(parse("--trace", "t.jsonl", *flags.split()))


def test_target_is_a_folder_or_an_address(tmp_path: Path) -> None:
    assert parse("--rate", "1", target=str(tmp_path)).target == tmp_path
    for address in ("[::1]:80", "localhost:50051", "unix:/run/engine.sock"):
        assert parse("--rate", "1", target=address).target == address


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--rate 1 --trace t.jsonl",
        "--rate 0",
        "--rate -1",
        "--rate nan",
        "--rate inf",
        "--rate fast",
        "--rate 1 --warm-up -1",
        "--rate 1 --duration 0",
        "--rate 1 --arrivals bursty",
        "--rate 1 --overload 10",
        "--rate 1 --overload 1+0x2",
        "--rate 1 --overload 1+2x0",
        "--rate 1 --overload 1+2x2,",
        "--rate 1 --lengths 5",
        "--rate 1 --lengths 0-5=1",
        "--rate 1 --lengths 6-5=1",
        "--rate 1 --lengths 1-5=0",
        "--rate 1 --lengths 1-5=1,",
        "--rate 1 --repeat-share 1.1",
        "--rate 1 -k 0",
        "--rate 1 --processes 1.5",
    ],
)
def test_wrong_usage_exits_with_two(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*flags.split())
    assert caught.value.code == 2
    assert "parse_" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("absent/bundle", "it has a path"),
        ("localhost", "it has no port"),
        ("http://localhost:50051", "leave out 'http://'"),
        ("localhost:70000", "70000 is not between 0 and 65535"),
    ],
)
def test_target_that_is_neither_is_refused(
    target: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("--rate", "1", target=target)
    error = capsys.readouterr().err
    assert f"'{target}' is neither the folder of a bundle nor an address" in error
    assert problem in error
