"""A dataset keeps its sequences, splits and negatives, and refuses what it cannot hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsrec.catalogue import CatalogueItem, read_catalogue, write_catalogue
from llmsrec.dataset import NUM_NEGATIVES, Dataset, build_dataset
from llmsrec.errors import DataError
from llmsrec.negatives import draw_absent_rows
from llmsrec.prompt import MAX_TIMESTAMP_MS

INTERACTIONS = {
    "anna": [(3, 30), (1, 10), (4, 20), (0, 20), (2, 20)],
    "ben": [(5, 1), (4, 2), (3, 3)],
}


def catalogue(num_items: int) -> list[CatalogueItem]:
    return [CatalogueItem(f"i{row}", f"Title {row}", {"year": "1999"}) for row in range(num_items)]


def build(
    interactions: Mapping[str, Sequence[tuple[int, int]]] = INTERACTIONS, num_items: int = 8
) -> Dataset:
    return build_dataset("tiny", catalogue(num_items), interactions)


def test_sequence_is_oldest_first_and_ties_keep_their_order() -> None:
    rows, timestamps_ms = build().sequence(0)
    assert rows.tolist() == [1, 4, 0, 2, 3]
    assert timestamps_ms.tolist() == [10, 20, 20, 20, 30]
    assert rows.dtype == np.int32
    assert timestamps_ms.dtype == np.int64


def test_last_interaction_is_the_test_target_and_the_one_before_the_validation_target() -> None:
    dataset = build()
    assert dataset.test_targets.tolist() == [3, 3]
    assert dataset.validation_targets.tolist() == [2, 4]
    assert dataset.training_part(0)[0].tolist() == [1, 4, 0]
    assert dataset.validation_history(1)[0].tolist() == [5]
    assert dataset.test_history(1)[0].tolist() == [5, 4]
    assert dataset.test_history(0)[1].tolist() == [10, 20, 20, 20]


def test_candidates_are_the_target_and_items_the_user_never_saw() -> None:
    dataset = build()
    for candidates, targets in (
        (dataset.validation_candidates(), dataset.validation_targets),
        (dataset.test_candidates(), dataset.test_targets),
    ):
        assert candidates.shape == (2, 1 + NUM_NEGATIVES)
        assert (candidates[:, 0] == targets).all()
        for user in range(2):
            own = set(dataset.sequence(user)[0].tolist())
            assert set(candidates[user, 1:].tolist()) == set(range(8)) - own


def test_negatives_are_the_same_whenever_they_are_drawn() -> None:
    assert build().digest() == build().digest()
    assert (build().test_negatives != build().validation_negatives).any()


def test_saved_dataset_loads_as_it_was(tmp_path: Path) -> None:
    dataset = build()
    dataset.save(tmp_path / "tiny")
    loaded = Dataset.load(tmp_path / "tiny")
    assert loaded.digest() == dataset.digest()
    assert loaded.catalogue == dataset.catalogue
    assert loaded.test_candidates().tolist() == dataset.test_candidates().tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_saving_replaces_an_older_dataset(tmp_path: Path) -> None:
    build().save(tmp_path / "tiny")
    newer = build({"cleo": INTERACTIONS["ben"]})
    newer.save(tmp_path / "tiny")
    assert Dataset.load(tmp_path / "tiny").user_ids == ["cleo"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_saving_fills_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    build().save(tmp_path / "tiny")
    assert Dataset.load(tmp_path / "tiny").num_users == 2


def test_saving_leaves_a_directory_that_is_no_dataset_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="is no dataset; remove it or name another --output"):
        build().save(tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_saving_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="is no dataset; remove it or name another --output"):
        build().save(tmp_path / "letter.txt")
    with pytest.raises(DataError, match=r"cannot be written below .*letter\.txt"):
        build().save(tmp_path / "letter.txt" / "tiny")
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_saving_follows_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to("tiny")
    with pytest.raises(DataError, match="is no dataset; remove it or name another --output"):
        build().save(tmp_path / "tiny")


def test_saving_keeps_what_stands_beside_an_older_dataset(tmp_path: Path) -> None:
    build().save(tmp_path / "tiny")
    (tmp_path / "tiny" / "train.csv").write_text("rows")
    with pytest.raises(DataError, match=r"holds 'train\.csv' beside a dataset, .* move it"):
        build().save(tmp_path / "tiny")
    assert (tmp_path / "tiny" / "train.csv").read_text() == "rows"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b'{"schema_version":1}'])
def test_another_program_s_dataset_json_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match="is no dataset; remove it or name another --output"):
        build().save(tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"name":"\xff"}', b"[" * 100_000])
def test_damaged_header_is_named(tmp_path: Path, content: bytes) -> None:
    build().save(tmp_path / "tiny")
    (tmp_path / "tiny" / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json: .*prepare the dataset again"):
        Dataset.load(tmp_path / "tiny")


@pytest.mark.parametrize(
    "name",
    ["catalogue.jsonl", "users.json", "interactions.safetensors", "negatives.safetensors"],
)
def test_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tiny"
    build().save(path)
    with (path / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(DataError, match=f"{name} is damaged.*prepare the dataset again"):
        Dataset.load(path)
    (path / name).unlink()
    with pytest.raises(DataError, match=f"cannot read .*{name}"):
        Dataset.load(path)


def test_other_schema_version_is_refused(tmp_path: Path) -> None:
    build().save(tmp_path / "tiny")
    header = tmp_path / "tiny" / "dataset.json"
    header.write_text(header.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(DataError, match=r"dataset\.json: schema version 9"):
        Dataset.load(tmp_path / "tiny")


def test_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere holds no dataset"):
        Dataset.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("interactions", "problem"),
    [
        pytest.param({"dora": [(0, 1), (1, 2)]}, "'dora' has 2 interactions", id="too few"),
        pytest.param({"dora": [(row, 1) for row in range(8)]}, "all 8 items", id="all seen"),
        pytest.param({"dora": [(0, -1), (1, 2), (2, 3)]}, "timestamp -1", id="before 1970"),
        pytest.param(
            {"dora": [(0, 1), (1, 2), (2, MAX_TIMESTAMP_MS + 1)]}, "milliseconds", id="after 2099"
        ),
        pytest.param({}, "no user", id="nobody"),
    ],
)
def test_unusable_interactions_are_refused(
    interactions: dict[str, list[tuple[int, int]]], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        build(interactions)


def test_catalogue_lines_keep_the_order_of_the_rows(tmp_path: Path) -> None:
    items = [CatalogueItem("b", 'Line\nbreak "1"', {"genres": ["x", "y"]}), CatalogueItem("a", "é")]
    write_catalogue(tmp_path / "catalogue.jsonl", items)
    assert read_catalogue(tmp_path / "catalogue.jsonl") == items


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        pytest.param('{"id":"a","title":"x"}\n{"id":"b"}\n', "line 2: .*title", id="no title"),
        pytest.param('{"id":"a","title":"x"}\n{"id":7,"title":"y"}\n', "line 2: .*str", id="id"),
        pytest.param('{"id":"a","title":"x"}\nplain\n', "line 2", id="no JSON"),
        pytest.param('{"id":"a","title":"x"}\n' * 2, "lines 1 and 2 share the id 'a'", id="twice"),
    ],
)
def test_faulty_catalogue_line_is_named(tmp_path: Path, lines: str, problem: str) -> None:
    path = tmp_path / "catalogue.jsonl"
    path.write_text(lines)
    with pytest.raises(DataError, match=problem):
        read_catalogue(path)


def test_catalogue_with_a_repeated_id_is_not_written(tmp_path: Path) -> None:
    twice = [CatalogueItem("a", "x"), CatalogueItem("b", "y"), CatalogueItem("a", "z")]
    with pytest.raises(DataError, match="rows 0 and 2 would share the id 'a'"):
        write_catalogue(tmp_path / "catalogue.jsonl", twice)
    assert not list(tmp_path.iterdir())


@given(present=st.sets(st.integers(0, 11), max_size=11), seed=st.integers(0, 2**32))
def test_absent_rows_are_drawn_from_all_that_are_absent(present: set[int], seed: int) -> None:
    rows = np.array([*present, *present], np.int32)
    drawn = draw_absent_rows(np.random.default_rng(seed), rows, 12, (20, 30))
    assert drawn.shape == (20, 30)
    assert set(drawn.ravel().tolist()) == set(range(12)) - present
