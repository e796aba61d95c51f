"""An evaluation ranks by hand-checked rules, and shuffles items but never their dates."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmsrec import checkpoint, llm
from llmsrec import evaluate as evaluation
from llmsrec.arguments import add_evaluate
from llmsrec.catalogue import CatalogueItem
from llmsrec.checkpoint import Checkpoint, CheckpointConfig
from llmsrec.dataset import Dataset, build_dataset
from llmsrec.encoding import History
from llmsrec.errors import DataError
from llmsrec.evaluate import cosine, rank_all, shuffle_windows
from llmsrec.model import Heads

NUM_ITEMS = 40


def build(interactions: dict[str, list[int]], num_items: int = NUM_ITEMS) -> Dataset:
    catalogue = [CatalogueItem(f"id {row}", f"Title {row}") for row in range(num_items)]
    return build_dataset(
        "tiny",
        catalogue,
        {
            user: [(row, 86_400_000 * day) for day, row in enumerate(rows)]
            for user, rows in interactions.items()
        },
    )


DATASET = build({"a": [0, 1, 2, 3], "b": [4, 5, 3, 0], "c": [7, 6, 7, 6]})


def score(**score_of_user: dict[int, float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Score what is named for each user; all other items have 0."""
    scores = np.zeros((DATASET.num_users, NUM_ITEMS), np.float32)
    for user, score_of_row in score_of_user.items():
        for row, value in score_of_row.items():
            scores[DATASET.user_ids.index(user), row] = value
    return scores


def gain(rank: float) -> float:
    return float(1 / np.log2(rank + 2))


def test_target_above_all_others_is_ranked_first() -> None:
    measured = rank_all(DATASET, score(a={3: 1}, b={0: 1}, c={6: 1}))
    assert set(measured.values()) == {1.0}
    assert sorted(measured) == sorted(
        f"{kind}{name}@{k}" for kind in ("", "full_") for name in ("ndcg", "hr") for k in (10, 20)
    )


def test_target_below_all_others_is_ranked_last() -> None:
    measured = rank_all(DATASET, score(a={3: -1}, b={0: -1}, c={6: -1}))
    assert set(measured.values()) == {0.0}


def test_full_ranking_leaves_out_what_was_seen_but_not_the_target() -> None:
    """Only unseen items stand before a target: a 2nd, b 3rd, c (whose target was seen) 1st."""
    measured = rank_all(
        DATASET,
        score(
            a={3: 5, 0: 9, 1: 9, 2: 9, 8: 6},
            b={0: 5, 4: 9, 5: 9, 3: 9, 8: 6, 9: 6},
            c={6: 5, 7: 9},
        ),
    )
    expected = (gain(1) + gain(2) + gain(0)) / 3
    for k in (10, 20):
        assert measured[f"full_ndcg@{k}"] == pytest.approx(expected)
        assert measured[f"full_hr@{k}"] == 1


def test_full_ranking_counts_half_the_ties() -> None:
    """Of 40 items, 3 were seen by a and by b and 2 by c; the others tie with the target."""
    measured = rank_all(DATASET, score())
    ranks = [(NUM_ITEMS - 3 - 1) / 2, (NUM_ITEMS - 3 - 1) / 2, (NUM_ITEMS - 2) / 2]
    assert ranks == [18, 18, 19]
    assert measured["full_ndcg@20"] == pytest.approx(np.mean([gain(rank) for rank in ranks]))
    assert measured["full_hr@20"] == 1
    assert measured["full_hr@10"] == 0


def test_sampled_ranking_looks_at_the_saved_negatives_alone() -> None:
    """Rows that a drew as negatives so often, and one that it did not draw, beat its target."""
    drawn = Counter(DATASET.test_negatives[0].tolist())
    beaten_by = next(row for row, count in drawn.items() if count == 2)
    never_drawn = [row for row in range(NUM_ITEMS) if row not in drawn and row not in {0, 1, 2, 3}]
    better = dict.fromkeys([beaten_by, *never_drawn, 0, 1, 2], 9.0)
    measured = rank_all(DATASET, score(a={3: 5, **better}, b={0: 1}, c={6: 1}))
    assert measured["ndcg@10"] == pytest.approx((gain(2) + 1 + 1) / 3)
    assert measured["full_ndcg@10"] == pytest.approx((gain(1 + len(never_drawn)) + 1 + 1) / 3)


def test_ranking_leaves_the_scores_as_they_were() -> None:
    scores = score(a={3: 5, 0: 9})
    before = scores.copy()
    rank_all(DATASET, scores)
    assert np.array_equal(scores, before)


HISTORIES: list[History] = [
    (list(range(10)), list(range(0, 1000, 100))),
    ([3], [None]),
    ([5, 5, 6, 7], [1, None, 3, 4]),
]


def test_shuffle_keeps_the_items_and_leaves_the_dates() -> None:
    shuffled = shuffle_windows(HISTORIES)
    for (rows, times), (old_rows, old_times) in zip(shuffled, HISTORIES, strict=True):
        assert sorted(rows) == sorted(old_rows)
        assert times == old_times
    assert shuffled[0][0] != HISTORIES[0][0]
    assert HISTORIES[0][0] == list(range(10))


def test_shuffle_is_decided_by_its_seed() -> None:
    assert shuffle_windows(HISTORIES, 1) == shuffle_windows(HISTORIES, 1)
    assert shuffle_windows(HISTORIES, 1) != shuffle_windows(HISTORIES, 2)


def test_cosine_is_taken_row_by_row() -> None:
    first = np.array([[1, 0], [3, 4], [1, 1], [2, 0]], np.float32)
    second = np.array([[5, 0], [-3, -4], [1, -1], [1, 1]], np.float32)
    assert cosine(first, second) == pytest.approx([1, -1, 0, np.sqrt(0.5)])


Evaluate = Callable[[Dataset], Path]


@pytest.fixture
def evaluate(reference_dir: Path, tmp_path: Path) -> Evaluate:
    """Evaluate untrained heads around the reference set's tiny LLM, and write the metrics."""
    source = llm.locate(str(reference_dir / "llm"))
    heads = Heads(64)
    config = CheckpointConfig(
        model_version="untrained",
        llm_dim=64,
        num_items=NUM_ITEMS,
        metrics={"validation": {"hr@10": 0.5}},
    )
    table = heads.item_emb_proj[0].get_parameter("weight").detach()[:NUM_ITEMS]
    untrained = Checkpoint(config, heads, table, DATASET.catalogue, [], source)
    checkpoint.save(tmp_path / "checkpoint", untrained)

    def run(dataset: Dataset) -> Path:
        dataset.save(tmp_path / "tiny")
        parser = argparse.ArgumentParser()
        add_evaluate(parser)
        options = [str(tmp_path / "checkpoint"), "--dataset", str(tmp_path / "tiny"), "--write"]
        evaluation.run(parser.parse_args(options))
        return tmp_path / "checkpoint"

    return run


def test_evaluation_is_shown_and_added_to_the_checkpoint(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluate(DATASET)
    metrics = checkpoint.load(folder).config.metrics
    assert metrics["validation"] == {"hr@10": 0.5}
    assert set(metrics) == {
        "validation",
        "llm-srec",
        "llm-srec, shuffled",
        "popularity",
        "co-occurrence",
    }
    measured = metrics["llm-srec, shuffled"]
    assert -1 <= measured["cosine_min"] <= measured["cosine_mean"] <= 1
    shown = capsys.readouterr().out
    assert "popularity" in shown
    assert f"mean {measured['cosine_mean']:.3f}" in shown
    assert checkpoint.load(folder).config.model_version == "untrained"


def test_dataset_with_another_catalogue_is_refused(evaluate: Evaluate) -> None:
    other = build({"a": [0, 1, 2, 3]}, NUM_ITEMS - 1)
    with pytest.raises(DataError, match="--dataset has another catalogue"):
        evaluate(other)
