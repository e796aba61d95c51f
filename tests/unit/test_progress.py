"""Where output is no terminal, progress is a line now and then."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import DownloadColumn, Progress
from transformers import AutoModel, modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from llmsrec import llm
from llmsrec.progress import ProgressLines, progress_bars, track


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(clock: Clock, written: io.StringIO) -> Iterator[ProgressLines]:
    with ProgressLines(Console(file=written), get_time=clock) as progress:
        yield progress


def test_long_task_tells_its_start_its_end_and_every_ten_seconds(
    lines: ProgressLines, clock: Clock, written: io.StringIO
) -> None:
    task = lines.add_task("users [bold]", total=100)
    for done in range(100):
        clock.now_s += 0.25
        if done % 2:
            lines.advance(task)
        else:
            lines.update(task, advance=1)
    lines.remove_task(task)
    assert written.getvalue().splitlines() == [
        "users [bold]: 0/100",
        "users [bold]: 40/100, 0:00:15 to go",
        "users [bold]: 80/100, 0:00:05 to go",
        "users [bold]: 100/100 in 0:00:25",
    ]


def test_slow_steps_give_an_estimate(
    lines: ProgressLines, clock: Clock, written: io.StringIO
) -> None:
    task = lines.add_task("users", total=100)
    for _ in range(2):
        clock.now_s += 40
        lines.advance(task)
    assert written.getvalue().splitlines()[-1] == "users: 2/100, 1:05:20 to go"


def test_task_of_few_steps_tells_each(lines: ProgressLines, written: io.StringIO) -> None:
    task = lines.add_task("loading", total=2)
    lines.update(task, description="encoding")
    lines.update(task, description="encoding")
    lines.update(task, advance=1, description="writing")
    lines.advance(task)
    assert written.getvalue().splitlines() == [
        "loading: 0/2",
        "encoding: 0/2",
        "writing: 1/2",
        "writing: 2/2 in 0:00:00",
    ]


def test_task_that_ends_early_says_so(lines: ProgressLines, written: io.StringIO) -> None:
    task = lines.add_task("epochs", total=100)
    lines.advance(task, 40)
    lines.remove_task(task)
    assert written.getvalue().splitlines()[1:] == ["epochs: 40/100 when it ended"]


def test_long_line_is_not_broken(lines: ProgressLines, written: io.StringIO) -> None:
    lines.add_task("word " * 40, total=2)
    assert written.getvalue().count("\n") == 1


def test_bytes_are_told_as_bytes(clock: Clock, written: io.StringIO, tmp_path: Path) -> None:
    file = tmp_path / "films.csv"
    file.write_bytes(bytes(3_000_000))
    lines = ProgressLines(Console(file=written), DownloadColumn(), clock)
    with lines, lines.open(file, "rb", description=file.name) as opened:
        opened.read()
    assert written.getvalue().splitlines() == [
        "films.csv: 0.0/3.0 MB",
        "films.csv: 3.0/3.0 MB in 0:00:00",
    ]


@pytest.mark.parametrize(("term", "kind"), [("xterm", Progress), ("dumb", ProgressLines)])
def test_bars_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, term: str, kind: type[Progress]
) -> None:
    monkeypatch.setenv("TERM", term)
    assert type(progress_bars()) is ProgressLines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert type(progress_bars()) is kind


def test_loading_an_llm_shows_no_bar_of_its_library(
    reference_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load = AutoModel.from_pretrained
    bars: dict[str, Callable[[], Any]] = {
        "gguf": lambda: vars(modeling_gguf_pytorch_utils)["tqdm"],
        "shards": lambda: transformers_logging.tqdm,
    }

    def load_with_bars(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        for name, bar in bars.items():
            list(bar()(range(3), desc=name))
        return load(*arguments, **options)

    monkeypatch.setattr(AutoModel, "from_pretrained", load_with_bars)
    folder = reference_dir / "llm"
    llm.load(llm.locate(str(folder)), torch.float32)
    assert capfd.readouterr().err == ""
    load_with_bars(folder)
    shown = capfd.readouterr().err
    assert all(f"{name}: 100%" in shown for name in bars)


def test_tracked_values_are_given_and_their_number_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(track([3, 1, 2], "rounds")) == [3, 1, 2]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "rounds: 0/3"
    assert told[-1].startswith("rounds: 3/3 in ")
