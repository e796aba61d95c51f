"""The command line: what it accepts, prints and exits with."""

from pathlib import Path

import pytest

from engine.__main__ import main
from engine.commands.serve import make_config


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
    path.write_text('[server]\nlisten = "127.0.0.1:0"\n[request]\nmax_k = 17\n')
    assert main(["serve", "--check-config", "--config", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'server.listen = "127.0.0.1:0"' in lines
    assert "request.max_k = 17" in lines
    assert "batcher.max_batch_size = unset" in lines


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--listen", "localhost"], "it has no port", id="address"),
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
