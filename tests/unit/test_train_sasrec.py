"""A SASRec training learns, and one that was killed ends with the very same weights."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.ring import NUM_ITEMS, ring_dataset

from llmsrec import train_sasrec
from llmsrec.arguments import add_train_sasrec
from llmsrec.catalogue import CatalogueItem
from llmsrec.dataset import build_dataset
from llmsrec.errors import CheckpointError, DataError, TrainingError
from llmsrec.sasrec import SASRec
from llmsrec.sasrec_files import load_sasrec
from llmsrec.settings import SasrecSettings
from llmsrec.train_sasrec import Trainer, evaluate, initialised

STATE = "training.state"

pytestmark = pytest.mark.usefixtures("one_thread")

RUN = """
import argparse
import sys
import torch
from llmsrec import train_sasrec
from llmsrec.arguments import add_train_sasrec
from llmsrec.catalogue import CatalogueItem
from llmsrec.dataset import build_dataset
torch.set_num_threads(1)
parser = argparse.ArgumentParser()
add_train_sasrec(parser)
train_sasrec.run(parser.parse_args(sys.argv[1:]))
"""


@pytest.fixture
def dataset_path(tmp_path: Path) -> Path:
    ring_dataset(12).save(tmp_path / "ring")
    return tmp_path / "ring"


def command(dataset: Path, output: Path, *options: str) -> list[str]:
    return ["--dataset", str(dataset), "--output", str(output), "--validate-every=1", *options]


def run(dataset: Path, output: Path, *options: str) -> None:
    parser = argparse.ArgumentParser()
    add_train_sasrec(parser)
    train_sasrec.run(parser.parse_args(command(dataset, output, *options)))


def num_epochs(output: Path) -> int:
    state = torch.load(output / STATE, weights_only=True)["state"]
    return int(state["epoch"])


def assert_same_weights(first: Path, second: Path) -> None:
    expected = load_sasrec(second)[0].state_dict()
    for name, value in load_sasrec(first)[0].state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    dataset_path: Path, tmp_path: Path
) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    endless = command(dataset_path, killed, "--epochs=100000", "--patience=100000")
    with subprocess.Popen([sys.executable, "-c", RUN, *endless]) as training:
        while not (killed / STATE).exists():
            time.sleep(0.005)
        time.sleep(0.1)
        training.kill()
    assert not (killed / "sasrec.json").exists()
    limit = f"--epochs={num_epochs(killed) + 2}"
    run(dataset_path, killed, limit)
    run(dataset_path, undisturbed, limit)
    assert num_epochs(killed) == num_epochs(undisturbed) == num_epochs(killed)
    assert_same_weights(killed, undisturbed)
    states = [torch.load(path / STATE, weights_only=True) for path in (killed, undisturbed)]
    for name, value in states[0]["state"]["model"].items():
        assert torch.equal(value, states[1]["state"]["model"][name]), name


def test_finished_training_is_not_repeated(dataset_path: Path, tmp_path: Path) -> None:
    run(dataset_path, tmp_path / "out", "--epochs=2")
    written = (tmp_path / "out" / STATE).stat().st_mtime_ns
    run(dataset_path, tmp_path / "out", "--epochs=2")
    assert (tmp_path / "out" / STATE).stat().st_mtime_ns == written


def test_state_of_other_settings_is_refused_until_restarted(
    dataset_path: Path, tmp_path: Path
) -> None:
    run(dataset_path, tmp_path / "out", "--epochs=1")
    with pytest.raises(CheckpointError, match=r"dropout was 0\.2 and is 0\.4 now.*--restart"):
        run(dataset_path, tmp_path / "out", "--epochs=1", "--dropout=0.4")
    run(dataset_path, tmp_path / "out", "--epochs=1", "--dropout=0.4", "--restart")
    assert load_sasrec(tmp_path / "out")[1].training["dropout"] == 0.4


def test_state_of_another_dataset_is_refused(dataset_path: Path, tmp_path: Path) -> None:
    run(dataset_path, tmp_path / "out", "--epochs=1")
    ring_dataset(5).save(dataset_path)
    with pytest.raises(CheckpointError, match="dataset_sha256"):
        run(dataset_path, tmp_path / "out", "--epochs=1")


@pytest.mark.parametrize("candidates", [NUM_ITEMS, 12], ids=["whole catalogue", "sampled"])
def test_softmax_learns_the_next_item(tmp_path: Path, candidates: int) -> None:
    ring_dataset(60).save(tmp_path / "ring")
    options = ["--loss=softmax", f"--candidates={candidates}", "--learning-rate=0.01"]
    run(tmp_path / "ring", tmp_path / "out", *options, "--epochs=25", "--dropout=0")
    _, description = load_sasrec(tmp_path / "out")
    assert description.metrics["test"]["ndcg@10"] > 0.9


def test_training_learns_the_next_item(tmp_path: Path) -> None:
    dataset = ring_dataset(60)
    dataset.save(tmp_path / "ring")
    run(tmp_path / "ring", tmp_path / "out", "--epochs=25", "--learning-rate=0.01", "--dropout=0")
    model, description = load_sasrec(tmp_path / "out")
    assert not model.training
    histories = [dataset.test_history(user)[0] for user in range(dataset.num_users)]
    untrained = evaluate(initialised(SASRec(NUM_ITEMS)), histories, dataset.test_candidates())
    assert description.metrics["test"] == evaluate(model, histories, dataset.test_candidates())
    assert description.metrics["test"]["ndcg@10"] > untrained["ndcg@10"] + 0.3
    assert description.dataset_sha256 == dataset.digest()


def test_patience_ends_the_training_and_the_best_weights_outlive_a_resumption(
    dataset_path: Path, tmp_path: Path
) -> None:
    options = ["--learning-rate=0.03", "--patience=3"]
    run(dataset_path, tmp_path / "once", "--epochs=500", *options)
    description = load_sasrec(tmp_path / "once")[1]
    best_epoch = int(description.training["best_epoch"])
    state = torch.load(tmp_path / "once" / STATE, weights_only=True)["state"]
    assert state["epoch"] == best_epoch + 3
    assert description.metrics["validation"]["ndcg@10"] == state["best_ndcg"]
    for num_epochs_so_far in (best_epoch, best_epoch + 2, 500):
        run(dataset_path, tmp_path / "parts", f"--epochs={num_epochs_so_far}", *options)
        assert_same_weights(tmp_path / "parts", tmp_path / "once")
    best_table = load_sasrec(tmp_path / "once")[0].item_emb.weight
    assert not torch.equal(state["model"]["item_emb.weight"], best_table)


def test_every_epoch_draws_anew() -> None:
    losses = set()
    for epoch in range(3):
        trainer = Trainer(ring_dataset(12), SasrecSettings(dropout=0))
        trainer.epoch = epoch
        losses.add(trainer.run_epoch())
    assert len(losses) == 3


def test_held_out_items_are_neither_spared_as_negatives_nor_trained_on() -> None:
    dataset = ring_dataset(12)
    trainer = Trainer(dataset, SasrecSettings())
    drawn = trainer.draw_negatives(np.random.default_rng(0)) - 1
    trained = [user for user in range(dataset.num_users) if len(dataset.training_part(user)[0]) > 1]
    assert 0 < len(trained) == len(drawn)
    for index, user in enumerate(trained):
        part = dataset.training_part(user)[0]
        assert set(drawn[index].tolist()) <= set(range(NUM_ITEMS)) - set(part.tolist())
        num_trained = len(part) - 1
        assert trainer.inputs[index, -num_trained:].tolist() == (part[:-1] + 1).tolist()
        assert trainer.targets[index, -num_trained:].tolist() == (part[1:] + 1).tolist()
        assert trainer.targets[index, :-num_trained].sum() == 0
    held_out = set(dataset.test_targets.tolist())
    assert held_out & set(drawn.ravel().tolist())


def test_dataset_without_training_pairs_is_refused() -> None:
    catalogue = [CatalogueItem(str(row), str(row)) for row in range(4)]
    dataset = build_dataset("short", catalogue, {"a": [(0, 0), (1, 1), (2, 2)]})
    with pytest.raises(DataError, match="no user has two interactions to train on"):
        Trainer(dataset, SasrecSettings())


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--batch-size=0", "batch_size"),
        ("--dropout=1", "dropout"),
        ("--learning-rate=0", "learning_rate"),
        ("--epochs=0", "epochs"),
    ],
)
def test_option_out_of_range_is_named(
    dataset_path: Path, tmp_path: Path, option: str, problem: str
) -> None:
    with pytest.raises(TrainingError, match=problem):
        run(dataset_path, tmp_path / "out", option)


@pytest.mark.parametrize(
    ("validate_every", "problem"), [(5, "the loss is .* in epoch 2"), (1, "a score is NaN")]
)
def test_diverging_training_says_so(
    dataset_path: Path, tmp_path: Path, validate_every: int, problem: str
) -> None:
    options = ["--epochs=9", "--learning-rate=1e30", f"--validate-every={validate_every}"]
    with pytest.raises(TrainingError, match=rf"{problem}.*lower --learning-rate"):
        run(dataset_path, tmp_path / "out", *options)


def test_results_are_shown(
    dataset_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(dataset_path, tmp_path / "out", "--epochs=1")
    measured = load_sasrec(tmp_path / "out")[1].metrics["test"]
    assert f"test: ndcg@10 {measured['ndcg@10']:.3f}" in capsys.readouterr().err


def test_weights_of_another_training_are_refused(dataset_path: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        run(dataset_path, tmp_path / str(seed), "--epochs=1", f"--seed={seed}")
    (tmp_path / "2" / "sasrec.json").rename(tmp_path / "1" / "sasrec.json")
    with pytest.raises(CheckpointError, match=r"sasrec\.safetensors is not the file"):
        load_sasrec(tmp_path / "1")
    with pytest.raises(CheckpointError, match="holds no trained SASRec"):
        load_sasrec(tmp_path / "2")
