"""A configuration is read strictly and defaults are usable."""

from pathlib import Path

import pytest

from engine.config import Config, load_config
from engine.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "server.toml"
    path.write_text(text)
    return path


def test_keys_left_out_take_their_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[batcher]\nmax_batch_size = 3\n"))
    assert config.batcher.max_batch_size == 3
    assert config.batcher.max_batch_tokens is None
    assert config.server == Config().server


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[batcher]\nmax_batch_sise = 3\n", r"max_batch_sise.*\$\.batcher", id="key"),
        pytest.param("[bathcer]\n", "bathcer", id="table"),
        pytest.param(
            '[batcher]\nmax_batch_size = "3"\n', r"\$\.batcher\.max_batch_size", id="type"
        ),
        pytest.param(
            "[admission]\nmax_in_flight = 0\n", r"\$\.admission\.max_in_flight", id="range"
        ),
        pytest.param("[server]\ndrain_seconds = -1\n", r"\$\.server\.drain_seconds", id="negative"),
        pytest.param("[encoder]\nnum_threads = -1\n", r"\$\.encoder\.num_threads", id="threads"),
        pytest.param("listen: here\n", "line 1", id="not TOML"),
    ],
)
def test_misfit_is_refused_with_file_and_path(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml")
