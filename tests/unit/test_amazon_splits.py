"""An interaction counts once, a split is a file of its own, and who cannot be split is left out."""

import gzip
import shutil
from pathlib import Path

import pytest
from support.amazon_set import (
    FIRST_MS,
    HEADER,
    NUM_INTERACTIONS,
    NUM_USERS,
    change,
    read_amazon_set,
    write_amazon_set,
)

from llmsrec.amazon import Selection
from llmsrec.errors import DataError


def rows_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)[1:]


@pytest.mark.parametrize(
    ("min_interactions", "digest"),
    [
        (1, "fcf4c7c42e7f1441704916637ad250b9078c3304469b2462142bc157e3d20d19"),
        (2, "bc65765c24e5e17c3c9dc8cdd0fc5ecdeea1e5c49715a5fe9d593c20aa4ab85f"),
        (3, "45a0fb7087e269f04e43ccf8193f2eb051d1b588d6f4974ec8ffbc94f2ed7cf1"),
    ],
)
def test_ordinary_files_give_the_dataset_that_every_release_gives(
    tmp_path: Path, min_interactions: int, digest: str
) -> None:
    selection = Selection(1.0, min_interactions=min_interactions)
    dataset, _ = read_amazon_set(write_amazon_set(tmp_path), selection)
    assert dataset.digest() == digest


def test_interaction_that_stands_twice_counts_once(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    again = rows_of(files.train)[2] + rows_of(files.valid)[1]
    change(files.train, lambda content: content + rows_of(files.train)[3])
    change(files.test, lambda content: content + again)
    dataset, told = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    assert told == [
        "left out: interactions that stand twice (the same user, item and time): 3"
        f" (first: {files.train}, line 74)"
    ]


def test_rare_item_is_not_made_frequent_by_a_row_that_stands_twice(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    row = f"U1,rare,5.0,{FIRST_MS + 5}\n".encode()
    change(files.train, lambda content: content + row * 2)
    dataset, _ = read_amazon_set(files, Selection(1.0, min_interactions=2))
    assert "rare" not in [item.id for item in dataset.catalogue]


def test_file_that_repeats_each_of_its_rows_is_read(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    change(files.train, lambda content: content + 2 * b"".join(rows_of(files.train)))
    dataset, (told,) = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    assert f": {2 * 6 * NUM_USERS} (first: {files.train}, line 74)" in told


def test_same_item_at_another_time_is_another_interaction(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    user, item, *_ = rows_of(files.train)[0].decode().split(",")
    row = f"{user},{item},5.0,{FIRST_MS + 5}\n".encode()
    change(files.train, lambda content: content + row)
    dataset, told = read_amazon_set(files)
    assert len(dataset.item_rows) == NUM_INTERACTIONS + 1
    assert told == []


def test_file_given_for_two_splits_is_refused(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    with pytest.raises(DataError, match=r"train\.csv is given for --train and --valid"):
        read_amazon_set(files._replace(valid=tmp_path / "." / "train.csv"))
    (tmp_path / "link").symlink_to(files.metadata)
    with pytest.raises(DataError, match=r"link is given for --test and --metadata"):
        read_amazon_set(files._replace(test=tmp_path / "link"))


def test_copy_of_another_split_is_refused(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    shutil.copy(files.train, files.test)
    with pytest.raises(
        DataError, match=r"test\.csv, line 2 stands at .*train\.csv, line 2 already"
    ):
        read_amazon_set(files)
    files.test.write_bytes(gzip.compress(files.valid.read_bytes()))
    with pytest.raises(
        DataError, match=r"test\.csv, line 2 stands at .*valid\.csv, .*12 of the 12"
    ):
        read_amazon_set(files)


def test_train_file_that_holds_the_other_splits_is_refused(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    held_out = b"".join(rows_of(files.valid) + rows_of(files.test))
    change(files.train, lambda content: content + held_out)
    with pytest.raises(DataError, match=r"valid\.csv, line 2 stands at .*train\.csv, line 74"):
        read_amazon_set(files)


def test_swapped_splits_are_noted(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    _, told = read_amazon_set(files._replace(valid=files.test, test=files.valid))
    assert told == [
        f"note: users with newer interactions in {files.test} than in {files.valid}; expected a"
        f" last-out split; see that the files are not swapped: {NUM_USERS} (first: 'U0')"
    ]


def test_swapped_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    with pytest.raises(DataError, match=r"meta\.jsonl, line 1: the header lacks user_id"):
        read_amazon_set(files._replace(train=files.metadata, metadata=files.train))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_split_without_rows_is_noted(tmp_path: Path, split: str) -> None:
    files = write_amazon_set(tmp_path)
    path = tmp_path / f"{split}.csv"
    path.write_text(f"{HEADER}\n")
    dataset, told = read_amazon_set(files)
    assert len(dataset.item_rows) == NUM_INTERACTIONS - NUM_USERS
    assert told == [f"note: files that hold a header and no rows: 1 (first: {path})"]


def test_train_split_without_rows_is_refused(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    files.train.write_text(f"{HEADER}\n")
    with pytest.raises(DataError, match=r"no user is left; .*no rows: 1 \(first: .*train\.csv\)"):
        read_amazon_set(files)


@pytest.mark.parametrize(
    ("items", "told"),
    [
        pytest.param(["B1", "B2"], "users with fewer than 3 interactions", id="two interactions"),
        pytest.param(
            [f"B{item}" for item in range(60)], "users that have seen each", id="all seen"
        ),
    ],
)
def test_user_who_cannot_be_split_is_left_out(tmp_path: Path, items: list[str], told: str) -> None:
    files = write_amazon_set(tmp_path)
    expected, _ = read_amazon_set(files)
    rows = "".join(f"odd,{item},5.0,{FIRST_MS}\n" for item in items)
    change(files.train, lambda content: content + rows.encode())
    dataset, (line,) = read_amazon_set(files)
    assert dataset.digest() == expected.digest()
    assert line.startswith(f"left out: {told}")
    assert line.endswith(f": 1 (first: 'odd', {files.train}, line 74)")


def test_one_user_alone_leaves_nobody(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    for path in files[:3]:
        rows = [row for row in rows_of(path) if row.startswith(b"U1,")]
        path.write_bytes(b"".join([f"{HEADER}\n".encode(), *rows]))
    with pytest.raises(DataError, match=r"no user is left; .*seen each item.*: 1 \(first: 'U1'"):
        read_amazon_set(files)


def test_what_selection_leaves_out_is_told(tmp_path: Path) -> None:
    files = write_amazon_set(tmp_path)
    rows = f"few,B1,5.0,{FIRST_MS}\nU0,rare,5.0,{FIRST_MS}\n".encode()
    change(files.train, lambda content: content + rows)
    with pytest.raises(DataError, match="a higher --sample-rate or a lower --min-interactions"):
        read_amazon_set(files, Selection(1.0, min_interactions=20))
    with pytest.raises(DataError, match=r"no user is left.*98 of these rows are of users outside"):
        read_amazon_set(files, Selection(1e-9))
    _, told = read_amazon_set(files, Selection(1.0, min_interactions=2))
    assert [line.split(" (")[0] for line in told] == [
        "left out: items with fewer than 2 interactions",
        "left out: users with fewer than 2 interactions to train",
    ]


@pytest.mark.parametrize("option", ["train", "valid", "test", "metadata"])
def test_path_that_is_no_file_is_found_before_reading(tmp_path: Path, option: str) -> None:
    files = write_amazon_set(tmp_path)
    files.train.write_text("not read")
    with pytest.raises(DataError, match=rf"nothing: there is no such file; .* --{option}"):
        read_amazon_set(files._replace(**{option: tmp_path / "nothing"}))
    with pytest.raises(DataError, match=rf"is a directory; name a file with --{option}"):
        read_amazon_set(files._replace(**{option: tmp_path}))
