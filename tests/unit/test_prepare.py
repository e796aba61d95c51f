"""The prepare command writes a dataset from each source and says what a source lacks."""

import argparse
from pathlib import Path

import pytest

from llmsrec import prepare
from llmsrec.arguments import add_prepare
from llmsrec.dataset import Dataset
from llmsrec.errors import DataError


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


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "nan", "many"])
def test_sample_rate_out_of_range_is_refused(
    tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        amazon(tmp_path, "--category=Toys", f"--sample-rate={share}")
    assert f"--sample-rate: {share} is no number over 0" in capsys.readouterr().err
