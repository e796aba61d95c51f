"""Amazon Reviews files are selected as published, in each form that they come in."""

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from llmsrec.amazon import AmazonFiles, Selection, load_amazon
from llmsrec.dataset import Dataset
from llmsrec.tally import Tally

HEADER = "user_id,parent_asin,rating,timestamp"
ALL = Selection(sample_rate=1.0, min_interactions=2)

Row = tuple[str, str, int]


def write_csv(path: Path, rows: Iterable[Row]) -> Path:
    lines = [f"{user},{item},5.0,{timestamp}" for user, item, timestamp in rows]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def write_files(
    folder: Path,
    splits: tuple[list[Row], list[Row], list[Row]],
    titles: dict[str, str | None],
) -> AmazonFiles:
    train, valid, test = (
        write_csv(folder / f"{name}.csv", rows)
        for name, rows in zip(("train", "valid", "test"), splits, strict=True)
    )
    lines = [
        json.dumps({"parent_asin": asin, "title": title, "description": ["long"]})
        for asin, title in titles.items()
    ]
    (folder / "meta.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return AmazonFiles(train, valid, test, folder / "meta.jsonl")


def load(files: AmazonFiles, selection: Selection = ALL) -> Dataset:
    with Progress(console=Console(file=io.StringIO())) as bars:
        return load_amazon("tiny", files, selection, Tally(), bars)


def items_of(dataset: Dataset, user_id: str) -> list[str]:
    rows, _ = dataset.sequence(dataset.user_ids.index(user_id))
    return [dataset.catalogue[row].id for row in rows]


OTHERS: list[Row] = [(user, item, 1) for user in ("x", "y") for item in "EFG"]
"""Users with a taste of their own, so that there are items which the rest has not seen."""

SPLITS: tuple[list[Row], list[Row], list[Row]] = (
    [
        ("u", "A", 1),
        ("u", "rare", 2),
        ("u", "B", 3),
        ("v", "B", 4),
        ("v", "A", 5),
        ("w", "A", 6),
        ("w", "odd", 7),
        *OTHERS,
    ],
    [("u", "C", 8), ("v", "C", 9), ("w", "B", 10)],
    [("u", "D", 11), ("v", "once", 12), ("w", "D", 13)],
)
TITLES = {"B": "Bee", "A": "Ay", "C": None, "unknown": "Never bought"}


def test_rare_items_are_dropped_wherever_they_stand(tmp_path: Path) -> None:
    dataset = load(write_files(tmp_path, SPLITS, TITLES))
    assert items_of(dataset, "u") == ["A", "B", "C", "D"]
    assert items_of(dataset, "v") == ["B", "A", "C"]


def test_user_left_with_a_short_training_part_is_dropped(tmp_path: Path) -> None:
    assert load(write_files(tmp_path, SPLITS, TITLES)).user_ids == ["u", "v", "x", "y"]


def test_items_are_counted_before_users_are_dropped(tmp_path: Path) -> None:
    dataset = load(write_files(tmp_path, SPLITS, TITLES))
    assert "D" in [item.id for item in dataset.catalogue]


@pytest.mark.parametrize("blank", ["", " "])
def test_missing_and_empty_titles_are_named_as_such(tmp_path: Path, blank: str) -> None:
    dataset = load(write_files(tmp_path, SPLITS, {**TITLES, "D": blank}))
    title_of_id = {item.id: item.title for item in dataset.catalogue}
    assert (title_of_id["A"], title_of_id["B"]) == ("Ay", "Bee")
    assert (title_of_id["C"], title_of_id["D"]) == ("Empty title", "Empty title")


def test_item_without_metadata_has_an_empty_title(tmp_path: Path) -> None:
    dataset = load(write_files(tmp_path, SPLITS, {"A": "Ay"}))
    assert set(dataset.titles) == {"Ay", "Empty title"}


def test_published_thresholds_want_five(tmp_path: Path) -> None:
    titles: dict[str, str | None] = {"A": "Ay", "G": "Gee"}
    tastes = {"u": "ABCDEF", "v": "GHIJKL", "w": "MNOPQR"}
    users = [(f"{name}{n}", items) for name, items in tastes.items() for n in range(5)]
    train = [(user, item, place) for user, items in users for place, item in enumerate(items)]
    short = [("short", item, place) for place, item in enumerate("ABCD")]
    held_out = ([("short", "E", 5)], [("short", "F", 6)])
    dataset = load(write_files(tmp_path, (train + short, *held_out), titles), Selection(1.0))
    assert dataset.user_ids == [user for user, _ in users]
    without_one = [row for row in train if row[0] != "u4"]
    dataset = load(write_files(tmp_path, (without_one, [], []), titles), Selection(1.0))
    assert dataset.user_ids == [user for user, _ in users if not user.startswith("u")]


def test_sample_is_a_share_of_the_users_and_keeps_them_whole(tmp_path: Path) -> None:
    train = [
        (f"u{user}", item, 1) for user in range(1000) for item in ("ABC" if user % 2 else "DEF")
    ]
    files = write_files(tmp_path, (train, [], []), TITLES)
    dataset = load(files, Selection(0.3, 1, 2))
    assert 250 < dataset.num_users < 350
    assert len(dataset.item_rows) == 3 * dataset.num_users
    assert load(files, Selection(0.3, 1, 2)).digest() == dataset.digest()
    assert load(files, Selection(0.3, 2, 2)).user_ids != dataset.user_ids


def test_compressed_files_are_read_too(tmp_path: Path) -> None:
    files = write_files(tmp_path, SPLITS, TITLES)
    packed = []
    for path in files:
        packed.append(path.with_name(f"{path.name}.gz"))
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
    assert load(AmazonFiles(*packed)).digest() == load(files).digest()


def test_columns_are_found_by_name_and_a_long_history_is_skipped(tmp_path: Path) -> None:
    files = write_files(tmp_path, SPLITS, TITLES)
    expected = load(files).digest()
    header, *lines = files.train.read_text().splitlines()
    history = "A " * 100_000
    moved = [f"history,{header}", *(f"{history},{line}" for line in lines)]
    files.train.write_text("\r\n".join(moved))
    assert load(files).digest() == expected
