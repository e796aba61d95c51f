"""A training of LLM-SRec learns, and one that was killed ends with the very same weights."""

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.progress import Progress
from support.ring import NUM_ITEMS, ring_dataset

from llmsrec import checkpoint, train, train_sasrec
from llmsrec.arguments import add_train
from llmsrec.dataset import Dataset
from llmsrec.errors import CheckpointError, DataError
from llmsrec.losses import training_loss
from llmsrec.sasrec import pad_sequences
from llmsrec.sasrec_files import load_sasrec
from llmsrec.settings import SasrecLimits, SasrecSettings, TrainLimits, TrainSettings
from llmsrec.train import Sample, Trainer

NUM_USERS = 24
BATCH_SIZE = 2

pytestmark = pytest.mark.usefixtures("one_thread")

KILLED_IN_SECOND_EPOCH = """
import argparse
import os
import signal
import sys
import torch
from llmsrec import train
from llmsrec.arguments import add_train

def die_in_the_second_epoch(trainer, samples):
    if (trainer.epoch, trainer.step) == (1, 5):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(trainer, samples)

loss, train.Trainer.loss = train.Trainer.loss, die_in_the_second_epoch
train._SAVE_EVERY_STEPS = 2
torch.set_num_threads(1)
parser = argparse.ArgumentParser()
add_train(parser)
train.run(parser.parse_args(sys.argv[1:]))
"""


class Inputs(NamedTuple):
    dataset: Dataset
    folder: Path
    llm: str

    def command(self, output: Path, *options: str) -> list[str]:
        paths = {"dataset": self.folder / "ring", "sasrec": self.folder / "sasrec"}
        named = [f"--{name}={path}" for name, path in paths.items()]
        size = f"--batch-size={BATCH_SIZE}"
        return [*named, f"--llm={self.llm}", f"--output={output}", size, *options]

    def run(self, output: Path, *options: str) -> None:
        parser = argparse.ArgumentParser()
        add_train(parser)
        train.run(parser.parse_args(self.command(output, *options)))

    def trainer(self, settings: TrainSettings) -> Trainer:
        return Trainer(self.dataset, load_sasrec(self.folder / "sasrec"), self.llm, settings)


@pytest.fixture(scope="module")
def inputs(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder, dataset = tmp_path_factory.mktemp("inputs"), ring_dataset(NUM_USERS)
    dataset.save(folder / "ring")
    teacher = train_sasrec.Trainer(dataset, SasrecSettings(learning_rate=0.01))
    teacher.run(folder / "sasrec", SasrecLimits(epochs=10), Progress(disable=True))
    return Inputs(dataset, folder, str(reference_dir / "llm"))


def state_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.training.state")


def read_state(output: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(state_path(output), weights_only=True)["state"]
    return state


def all_samples(trainer: Trainer) -> list[Sample]:
    return [sample for batch in trainer.draw_batches() for sample in batch]


def test_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    inputs: Inputs, tmp_path: Path
) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    command = inputs.command(killed, "--epochs=3", "--patience=9")
    training = subprocess.run([sys.executable, "-c", KILLED_IN_SECOND_EPOCH, *command], check=False)
    assert training.returncode == -signal.SIGKILL
    found = read_state(killed)
    assert (found["epoch"], found["step"]) == (1, 4)
    for output in (killed, undisturbed):
        inputs.run(output, "--epochs=3", "--patience=9")
    heads = [(output / "heads.safetensors").read_bytes() for output in (killed, undisturbed)]
    assert heads[0] == heads[1]
    resumed, expected = read_state(killed), read_state(undisturbed)
    for name, value in expected["trained"].items():
        assert torch.equal(resumed["trained"][name], value), name
    for name in ("epoch", "step", "best", "best_epoch"):
        assert resumed[name] == expected[name]
    for state in (resumed, expected):
        assert state["optimiser"]["state"][0]["step"] == 3 * NUM_USERS / BATCH_SIZE


def test_one_epoch_lowers_the_loss(inputs: Inputs, tmp_path: Path) -> None:
    trainer = inputs.trainer(TrainSettings(learning_rate=1e-4, batch_size=4, precision="fp32"))
    samples = all_samples(trainer)
    with torch.inference_mode():
        before = trainer.loss(samples).item()
    trainer.run(tmp_path / "out", TrainLimits(epochs=1), Progress(disable=True))
    with torch.inference_mode():
        after = trainer.loss(samples).item()
    assert after < before - 0.5


def test_training_changes_the_heads_and_neither_the_llm_nor_the_teacher(
    inputs: Inputs, tmp_path: Path
) -> None:
    trainer, untrained = (
        inputs.trainer(TrainSettings(batch_size=8)),
        inputs.trainer(TrainSettings(batch_size=8)),
    )
    trainer.run(tmp_path / "out", TrainLimits(epochs=1), Progress(disable=True))
    frozen = [(trainer.model.llm, untrained.model.llm), (trainer.teacher, untrained.teacher)]
    for module, before in frozen:
        for value, old in zip(module.parameters(), before.parameters(), strict=True):
            assert torch.equal(value, old)
    assert torch.equal(trainer.model.item_table, untrained.model.item_table)
    for name, value in trainer.trained.state_dict().items():
        assert not torch.equal(value, untrained.trained.state_dict()[name]), name
    assert trainer.optimiser.param_groups[0]["lr"] == pytest.approx(
        0.95 * TrainSettings().learning_rate
    )


def test_loss_reads_what_precedes_the_target_and_nothing_after(inputs: Inputs) -> None:
    trainer = inputs.trainer(TrainSettings(precision="fp32"))
    model, writer, samples = trainer.model, trainer.writer, all_samples(trainer)[:5]
    sequences = [inputs.dataset.sequence(sample.user) for sample in samples]
    before = [
        (rows[: sample.position].tolist(), times[: sample.position].tolist())
        for (rows, times), sample in zip(sequences, samples, strict=True)
    ]
    with torch.inference_mode():
        users = [model.user_vectors([writer.user(*history)]) for history in before]
        items = [
            model.item_vectors([writer.item(row) for row in sample.candidates])
            for sample in samples
        ]
        states = trainer.teacher.user_states(pad_sequences([np.array(rows) for rows, _ in before]))
        expected = training_loss(torch.cat(users), torch.stack(items), trainer.teacher_head(states))
        assert trainer.loss(samples).item() == pytest.approx(expected.item(), abs=1e-5)


def test_teacher_is_in_evaluation_mode_while_it_is_distilled(inputs: Inputs) -> None:
    trainer = inputs.trainer(TrainSettings(precision="fp32"))
    samples = all_samples(trainer)[:4]
    assert not trainer.teacher.training
    assert trainer.loss(samples).item() == trainer.loss(samples).item()


def test_item_table_is_the_teachers_without_its_padding(inputs: Inputs) -> None:
    trainer = inputs.trainer(TrainSettings())
    assert trainer.model.item_table.shape == (NUM_ITEMS, 64)
    assert torch.equal(trainer.model.item_table, trainer.teacher.item_emb.weight[1:])


def test_samples_come_from_the_training_part_and_its_absent_items(inputs: Inputs) -> None:
    trainer = inputs.trainer(TrainSettings())
    positions = set()
    for epoch in range(100):
        trainer.epoch = epoch
        samples = all_samples(trainer)
        num_trained = [len(inputs.dataset.training_part(user)[0]) for user in range(NUM_USERS)]
        assert sorted(sample.user for sample in samples) == [
            user for user in range(NUM_USERS) if num_trained[user] > 1
        ]
        for sample in samples:
            rows, _ = inputs.dataset.training_part(sample.user)
            assert 0 < sample.position < len(rows)
            assert sample.candidates[0] == rows[sample.position]
            assert set(rows.tolist()).isdisjoint(sample.candidates[1:].tolist())
            assert len(sample.candidates) == 4
            positions.add((sample.user, sample.position))
    assert len(positions) == sum(count - 1 for count in num_trained)


def test_state_of_other_settings_is_refused_until_restarted(inputs: Inputs, tmp_path: Path) -> None:
    inputs.run(tmp_path / "out", "--epochs=1", "--validation-users=2")
    with pytest.raises(CheckpointError, match=r"seed was 0 and is 7 now.*pass --restart"):
        inputs.run(tmp_path / "out", "--epochs=1", "--validation-users=2", "--seed=7")
    inputs.run(tmp_path / "out", "--epochs=1", "--validation-users=2", "--seed=7", "--restart")
    assert checkpoint.load(tmp_path / "out").config.training["seed"] == 7


def test_finished_training_is_not_repeated(inputs: Inputs, tmp_path: Path) -> None:
    inputs.run(tmp_path / "out", "--epochs=1")
    written = (tmp_path / "out" / "heads.safetensors").stat().st_mtime_ns
    inputs.run(tmp_path / "out", "--epochs=1")
    assert (tmp_path / "out" / "heads.safetensors").stat().st_mtime_ns == written


def test_training_without_a_gain_stops_when_patience_ends(inputs: Inputs, tmp_path: Path) -> None:
    trainer = inputs.trainer(TrainSettings(learning_rate=0.0, batch_size=NUM_USERS))
    trainer.run(tmp_path / "out", TrainLimits(epochs=9, patience=2), Progress(disable=True))
    assert (trainer.best_epoch, trainer.epoch) == (1, 3)


def test_best_epoch_outlives_a_resumption(inputs: Inputs, tmp_path: Path) -> None:
    settings = TrainSettings(learning_rate=0.0, batch_size=NUM_USERS)
    for epochs in (1, 2):
        trainer = inputs.trainer(settings)
        trainer.run(
            tmp_path / "out", TrainLimits(epochs=epochs, patience=9), Progress(disable=True)
        )
    assert (trainer.best_epoch, trainer.epoch) == (1, 2)
    assert checkpoint.load(tmp_path / "out").config.training["best_epoch"] == 1


def test_written_checkpoint_gives_the_trained_vectors(inputs: Inputs, tmp_path: Path) -> None:
    trainer = inputs.trainer(TrainSettings(precision="fp32", learning_rate=1e-4, batch_size=4))
    trainer.run(tmp_path / "out", TrainLimits(epochs=1), Progress(disable=True))
    written = checkpoint.load(tmp_path / "out")
    model, _ = written.load_model()
    prompts = [trainer.writer.item(row) for row in range(NUM_ITEMS)]
    with torch.inference_mode():
        expected = trainer.model.item_vectors(prompts)
        found = model.item_vectors(prompts)
    cosines = torch.nn.functional.cosine_similarity(found, expected)
    assert cosines.min() > 0.9999
    assert [item.title for item in written.catalogue] == inputs.dataset.titles
    assert len(written.histories) == NUM_USERS
    assert written.config.metrics["validation"] == trainer.validate(Progress(disable=True))
    assert written.config.training["best_epoch"] == 1


def test_sasrec_of_another_dataset_is_refused(inputs: Inputs) -> None:
    sasrec = load_sasrec(inputs.folder / "sasrec")
    with pytest.raises(DataError, match="--sasrec was trained on another dataset"):
        Trainer(ring_dataset(NUM_USERS - 1), sasrec, inputs.llm, TrainSettings())
