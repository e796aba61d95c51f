"""The command line: what it accepts, prints and exits with."""

import asyncio
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_server import make_config as make_server_config
from support.generations import SummingPipeline, make_generation

from engine.__main__ import main, make_parser
from engine.commands.recommend import describe
from engine.commands.serve import make_config
from engine.live import Live
from engine.request import (
    IgnoredInteraction,
    IgnoredReason,
    Interaction,
    MicroBatch,
    RankedItem,
    Recommendation,
    StageTimings,
)
from engine.rpc.server import Server
from engine.serving import Serving

ROOT = Path(__file__).parents[2]
MIDNIGHT_MS = 880_156_800_000  # 1997-11-22


@pytest.fixture
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("text", "interaction"),
    [
        ("50", Interaction("50")),
        ("50@880156800001", Interaction("50", MIDNIGHT_MS + 1)),
        ("50@1997-11-22", Interaction("50", MIDNIGHT_MS)),
        ("50@1969-12-31", Interaction("50", -86_400_000)),
        ("me@home", Interaction("me@home")),
        ("me@home@0", Interaction("me@home", 0)),
        ("50@1997-13-22", Interaction("50@1997-13-22")),
        ("50@", Interaction("50@")),
        ("@50", Interaction("@50")),
        ("50@٣", Interaction("50@٣")),
    ],
)
def test_what_follows_the_last_at_sign_is_the_time_if_it_is_one(
    text: str, interaction: Interaction
) -> None:
    options = make_parser().parse_args(["recommend", "a:1", "--item", text])
    assert options.history == [interaction]


def test_recommend_options_keep_their_order_and_defaults() -> None:
    parser = make_parser()
    options = parser.parse_args(["recommend", "a:1", "--item", "2", "--item", "1"])
    assert [interaction.item_id for interaction in options.history] == ["2", "1"]
    assert (options.k, options.include_seen, options.exclude, options.timeout) == (
        None,
        False,
        [],
        5,
    )
    more = ["-k", "3", "--include-seen", "--exclude", "7", "--exclude", "8", "--timeout", "0.5"]
    options = parser.parse_args(["recommend", "a:1", "--item", "1", *more])
    assert (options.k, options.include_seen, options.timeout) == (3, True, 0.5)
    assert options.exclude == ["7", "8"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["recommend", "a:1"],
        ["recommend", "a:1", "--item", ""],
        ["recommend", "a:1", "--item", "1", "-k", "many"],
        ["recommend", "a:1", "--item", "1", "--timeout", "0"],
        ["recommend", "a:1", "--item", "1", "--timeout", "nan"],
        ["recommend", "a:1", "--item", "1", "--timeout", "soon"],
        ["serve"],
    ],
)
def test_wrong_usage_exits_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "parse_" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "check", "rebuild", "recommend"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: python -m engine {command} " in capsys.readouterr().out


def test_closed_port_is_one_line_and_exit_code_one(closed_address: str) -> None:
    command = [sys.executable, "-m", "engine", "recommend", closed_address, "--item", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {closed_address} is not available: ")
    assert done.stderr.count("\n") == 1


def test_value_that_does_not_fit_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "a:1", "--item", "1", "-k", "-1"]) == 1
    assert capsys.readouterr().err.startswith("error: k: -1 is not between")


@pytest.mark.parametrize("command", ["serve", "check", "rebuild"])
def test_missing_bundle_is_an_error(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / "absent")]) == 1
    assert str(tmp_path / "absent") in capsys.readouterr().err


def test_missing_config_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "bundle", "--config", str(tmp_path / "absent.toml")]) == 1
    assert "absent.toml: No such file" in capsys.readouterr().err


def test_listen_overrides_the_file_and_only_that(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[server]\nlisten = "a:1"\ndrain_seconds = 3\n[batcher]\nmax_batch_size = 2\n')
    assert make_config(path, None).server.listen == "a:1"
    config = make_config(path, "b:2")
    assert (config.server.listen, config.server.drain_seconds) == ("b:2", 3)
    assert config.batcher.max_batch_size == 2
    assert make_config(None, "b:2").server.listen == "b:2"


def test_configuration_is_checked_and_shown_without_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[server]\nlisten = "127.0.0.1:0"\n[request]\nmax_k = 7\n')
    assert main(["serve", "--check-config", "--config", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'server.listen = "127.0.0.1:0"' in lines
    assert "request.max_k = 7" in lines
    assert "batcher.max_batch_size = unset" in lines


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--listen", "localhost"], "the port is missing", id="address"),
        pytest.param(["--config", "absent.toml"], "absent.toml", id="no file"),
        pytest.param(["absent", "--listen", "127.0.0.1:0"], "absent is no bundle", id="no bundle"),
    ],
)
def test_check_of_a_configuration_says_what_is_wrong(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--check-config", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem in captured.err


async def test_recommend_prints_the_servers_answer(capsys: pytest.CaptureFixture[str]) -> None:
    config = make_server_config()
    serving = Serving(Live(make_generation(SummingPipeline())), config.admission)
    server = Server(serving, config)
    await server.start()
    arguments = ["recommend", server.address, "--item", "1", "--item", "2"]
    assert await asyncio.to_thread(main, arguments) == 0
    await server.drain()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["1", "3.0000", "3", "Title", "3"]
    assert "model model-1, catalogue catalogue-1" in lines


def test_answer_is_described_in_full() -> None:
    answer = Recommendation(
        items=[RankedItem("a-long-id", "First", 12.5), RankedItem("b", "Second", -0.25)],
        model_version="m",
        catalogue_version="c",
        ignored=[IgnoredInteraction(1, "x", IgnoredReason.UNKNOWN_ITEM)],
        num_used_interactions=2,
        num_prompt_tokens=120,
        micro_batch=MicroBatch(num_prompts=3, longest_prompt_tokens=150),
        timings=StageTimings(0.25, 1, 20, 0.5, 21.75),
    )
    assert describe(answer, 5) == [
        "rank     score  id         title",
        "   1   12.5000  a-long-id  First",
        "   2   -0.2500  b          Second",
        "",
        "render 0.25 ms, queue 1.00 ms, encode 20.00 ms, retrieve 0.50 ms, total 21.75 ms",
        "model m, catalogue c",
        "used 2 of 5 interactions",
        "prompt of 120 tokens, one of 3 encoded together, the longest of 150 tokens",
        "ignored 1: x (unknown item)",
        "ignored 2 more",
    ]
    assert describe(answer, 3)[-1] == "ignored 1: x (unknown item)"
    assert not any("prompt" in line for line in describe(replace(answer, micro_batch=None), 5))
