"""A configuration is read strictly and defaults are usable."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Config, load_config
from engine.errors import ConfigError

KEYS = [
    (section, key) for section, values in msgspec.to_builtins(Config()).items() for key in values
]
VALUES = (
    st.integers()
    | st.floats()
    | st.booleans()
    | st.text(max_size=8).map(lambda text: msgspec.json.encode(text).decode())
)
SETTINGS = st.builds(
    lambda key, value: f"[{key[0]}]\n{key[1]} = {value}\n", st.sampled_from(KEYS), VALUES
)


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
        pytest.param(
            "[encoder]\nnum_threads = 99999\n", r"<= 1024.*num_threads", id="too many threads"
        ),
        pytest.param(f"[encoder]\nnum_threads = {10**30}\n", "num_threads", id="beyond 64 bits"),
        pytest.param(
            "[server]\nmax_request_bytes = 1\n", "max_request_bytes", id="refuses every request"
        ),
        pytest.param(
            "[server]\nmax_request_bytes = 9999999999\n", "max_request_bytes", id="beyond gRPC"
        ),
        pytest.param("[server]\ndrain_seconds = nan\n", "drain_seconds", id="not a number"),
        pytest.param("[server]\ndrain_seconds = inf\n", "drain_seconds", id="endless"),
        pytest.param(
            "[batcher]\nmax_batch_tokens = 9223372036854775807\n", "max_batch_tokens", id="huge"
        ),
        pytest.param("[request]\nmax_k = 9\n", r"\$\.request\.max_k", id="below the default k"),
        pytest.param(f"[request]\nmax_k = {'9' * 5000}\n", "digits", id="endless number"),
        pytest.param(f"x = {'[' * 3000}\n", "recursion", id="endless depth"),
        pytest.param("[server]\nlisten = 50051\n", r"\$\.server\.listen", id="address"),
        pytest.param("[server]\n[server]\n", "line 2", id="table twice"),
        pytest.param("listen: here\n", "line 1", id="not TOML"),
    ],
)
def test_misfit_is_refused_with_file_and_path(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=40) | SETTINGS.map(str.encode))
def test_any_content_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder, suppress(ConfigError):
        path = Path(folder) / "server.toml"
        path.write_bytes(content)
        assert isinstance(load_config(path), Config)


def test_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("[request]\nmax_k = 11\n", encoding="utf-8-sig")
    assert load_config(path).request.max_k == 11


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"{path}: it is no regular file"):
            load_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml")
