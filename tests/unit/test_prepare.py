"""The prepare command writes a dataset from each source and says what a source lacks."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from llmsrec import prepare
from llmsrec.arguments import add_prepare
from llmsrec.dataset import Dataset
from llmsrec.errors import DataError, OutputError


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_prepare(parser)
    return parser.parse_args(arguments)


def amazon(folder: Path, *options: str) -> argparse.Namespace:
    for split in ("train", "valid", "test"):
        (folder / f"{split}.csv").write_text("user_id,parent_asin,rating,timestamp\n")
    users = [("u1", "ABC"), ("u2", "ABC"), ("u3", "DEF"), ("u4", "DEF"), ("u5", "A")]
    with (folder / "train.csv").open("a") as file:
        file.writelines(f"{user},{item},5.0,1\n" for user, items in users for item in items)
    (folder / "meta.jsonl").write_text('{"parent_asin":"A","title":"Ay"}\n')
    files = [f"--{split}={folder / split}.csv" for split in ("train", "valid", "test")]
    metadata = f"--metadata={folder / 'meta.jsonl'}"
    output = f"--output={folder / 'out'}"
    return parse("amazon", *files, metadata, output, "--min-interactions=2", *options)


def test_movielens_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(parse("ml-100k", "--output", str(tmp_path / "out")))
    assert Dataset.load(tmp_path / "out").name == "ml-100k"
    assert "943 users, 1682 items, 100000 interactions" in capsys.readouterr().err.replace("\n", "")


def test_amazon_files_are_prepared(tmp_path: Path) -> None:
    prepare.run(amazon(tmp_path, "--category=Toys", "--sample-rate=1"))
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.name == "Toys"
    assert dataset.user_ids == ["u1", "u2", "u3", "u4"]


def test_published_sample_rate_is_the_default(tmp_path: Path) -> None:
    prepare.run(amazon(tmp_path, "--category=Industrial_and_Scientific"))
    assert Dataset.load(tmp_path / "out").num_users == 4


def test_category_without_a_published_sample_rate_wants_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Toys has no published sample rate; give --sample-rate"):
        prepare.run(amazon(tmp_path, "--category=Toys"))


def test_summary_ends_with_titles_dates_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = amazon(tmp_path, "--category=Toys", "--sample-rate=1")
    with (tmp_path / "train.csv").open("a") as file:
        file.write("u1,A,5.0,noon\nu1,A,5.0,-1\nu1,B,5.0,never\nu2,A,5.0,1500000000123\n")
    prepare.run(arguments)
    lines = capsys.readouterr().err.splitlines()
    train = f"first: {tmp_path / 'train.csv'}, line"
    expected = [
        f"read: {tmp_path / 'train.csv'}: 17 rows",
        f"read: {tmp_path / 'valid.csv'}: 0 rows",
        f"read: {tmp_path / 'test.csv'}: 0 rows",
        f"read: {tmp_path / 'meta.jsonl'}: 1 lines",
        "note: interactions dated January or February 1970; see that timestamps are milliseconds:"
        f" 13 ({train} 2)",
        f"left out: rows whose timestamp is no number: 2 ({train} 15)",
        f"left out: rows of a date before 1970 or after 2099: 1 ({train} 16)",
        f"note: files that hold a header and no rows: 2 (first: {tmp_path / 'valid.csv'})",
        "left out: users with fewer than 2 interactions to train (--min-interactions): 1"
        f" (first: 'u5', {tmp_path / 'train.csv'}, line 14)",
        "titles: 5 of 6 items (83.3 %) have none and are called 'Empty title'; see that the"
        " metadata is of the same data",
        "dates: 1970-01-01 to 2017-07-14 (UTC)",
        f"{tmp_path / 'out'}: 4 users, 6 items, 13 interactions",
    ]
    assert lines[-len(expected) :] == expected


def test_movielens_has_a_summary_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(parse("ml-100k", "--output", str(tmp_path / "out")))
    items, rows, *described = capsys.readouterr().err.splitlines()
    assert items.endswith("ml-100k.item: 1,682 items")
    assert rows.endswith("ml-100k.inter: 100,000 rows")
    assert described[:2] == [
        "titles: 0 of 1,682 items (0.0 %) have none and are called 'Empty title'",
        "dates: 1997-09-20 to 1998-04-22 (UTC)",
    ]


def test_output_that_cannot_be_written_is_found_before_reading(tmp_path: Path) -> None:
    arguments = amazon(tmp_path, "--category=Toys", "--sample-rate=1")
    arguments.train.write_text("not read")
    (tmp_path / "out").write_text("dear")
    with pytest.raises(DataError, match="out exists and is no dataset; remove it or name another"):
        prepare.run(arguments)
    assert (tmp_path / "out").read_text() == "dear"


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        pytest.param("--min-interactions=0", "0 is no whole number from 1 up", id="none"),
        pytest.param("--min-interactions=-3", "-3 is no whole number from 1 up", id="negative"),
        pytest.param("--min-interactions=2.5", "2.5 is no whole number from 1 up", id="fraction"),
        pytest.param("--seed=-1", "-1 is no whole number from 0 up", id="seed"),
        pytest.param("--sample-rate=5%", "5% is no number over 0 and up to 1", id="percent"),
        pytest.param("--category=", "'' is no name", id="no name"),
        pytest.param("--category=a\nb", "is no name; give one of printable", id="line break"),
        pytest.param("--category=\udcff", "is no name; give one of printable", id="no UTF-8"),
    ],
)
def test_option_out_of_range_is_refused(
    tmp_path: Path, option: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        amazon(tmp_path, "--category=Toys", option)
    assert f"argument {option.split('=')[0]}: " in (told := capsys.readouterr().err)
    assert problem in told


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "nan", "many"])
def test_sample_rate_out_of_range_is_refused(
    tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        amazon(tmp_path, "--category=Toys", f"--sample-rate={share}")
    assert f"--sample-rate: {share} is no number over 0" in capsys.readouterr().err


def test_second_prepare_into_one_output_is_refused_before_it_reads(tmp_path: Path) -> None:
    arguments = amazon(tmp_path, "--category=Toys", "--sample-rate=1")
    (tmp_path / "train.csv").unlink()
    holder = (
        "import sys, pathlib; from llmsrec.files import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=rf"another process \(id {other.pid}\) is writing"):
            prepare.run(arguments)
        other.communicate()
