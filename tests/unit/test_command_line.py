"""Whatever is typed after `python -m engine`: an answer, or one line that says what is wrong."""

import io
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.__main__ import main

COMMANDS = ("serve", "check", "rebuild", "recommend")
FLAGS = (
    *("--item", "--exclude", "-k", "--timeout", "--include-seen"),
    *("--config", "--listen", "--target", "--help", "--version", "-h", "--", "-", "--it", "-k5"),
)
VALUES = (
    *("50", "50@1997-11-22", "50@1997-13-45", "50@-5", "50@", "", " ", "5", "-1", "0", "1e400"),
    *("localhost", "localhost:0", "http://a:1", "unix:", "unix:/absent/engine.sock", "::1"),
    *("/absent/bundle", "/dev/null", "/", "absent.toml", "8.9", "a\nb", "\udcff", "\0", "\x1b[0m"),
)
WORDS = st.sampled_from(FLAGS) | st.sampled_from(VALUES) | st.text(max_size=4).map(" {}".format)
RECOMMEND = ("recommend", "unix:/absent/engine.sock", "--item")


def run(arguments: list[str]) -> tuple[object, str]:
    """Give the exit code and what was written as errors."""
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        try:
            code: object = main(arguments)
        except SystemExit as ended:
            code = ended.code
    return code, errors.getvalue()


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([*COMMANDS, "", "nonsense"]), st.lists(WORDS, max_size=8))
@example("recommend", ["unix:/absent/engine.sock", "--item", "50", "a\nb"])
@example("recommend", ["a:1\n", "--item", "\udcff"])
@example("check", ["\0"])
def test_any_words_end_in_an_answer_or_one_line(command: str, words: list[str]) -> None:
    code, errors = run([command, *words])
    assert code in (0, 1, 2)
    if code == 0:
        assert errors == ""
        return
    *usage, last = errors.splitlines()
    assert errors.endswith("\n")
    if code == 1:
        assert (usage, last[:7]) == ([], "error: ")
    else:
        assert usage[0].startswith("usage: python -m engine")
        assert last.startswith("python -m engine")
        assert ": error: " in last


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=8), st.text(max_size=8))
def test_any_ids_end_in_one_line(item: str, exclusion: str) -> None:
    code, errors = run([*RECOMMEND, item, f"--exclude={exclusion}"])
    assert code in (1, 2)
    assert errors.splitlines()[-1].isprintable()


@pytest.mark.parametrize("command", ["serve", "check", "rebuild"])
@pytest.mark.parametrize("path", ["", "\0"])
def test_path_that_names_nothing_is_wrong_usage(command: str, path: str) -> None:
    code, errors = run([command, path])
    assert code == 2
    assert errors.endswith(f"error: argument BUNDLE: {path!r} is no path\n")


@pytest.mark.parametrize("command", ["serve", "check", "rebuild"])
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        pytest.param("/absent/bundle", "No such file or directory", id="missing"),
        pytest.param("/dev/null", "Not a directory", id="file"),
        pytest.param("/", "No such file or directory", id="folder of something else"),
    ],
)
def test_what_is_no_bundle_is_one_line_with_its_remedy(
    command: str, path: str, problem: str
) -> None:
    remedy = "build one with export/build_engine.py"
    error = f"error: {path} is no bundle (manifest.json: {problem}); {remedy}\n"
    assert run([command, path]) == (1, error)
