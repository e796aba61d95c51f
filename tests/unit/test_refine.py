"""Heads refined on cached readouts learn the next item; a killed reading goes on where it was."""

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rich.progress import Progress
from support.ring import NUM_ITEMS, ring_dataset

from llmsrec import checkpoint, llm, prompt, readouts, refine, train_sasrec
from llmsrec.arguments import add_refine
from llmsrec.checkpoint import Checkpoint, CheckpointConfig
from llmsrec.dataset import Dataset
from llmsrec.errors import CheckpointError, DataError
from llmsrec.losses import representation_loss
from llmsrec.model import Heads, LLMSRec
from llmsrec.readouts import Readouts, collect, newest_windows, readouts_after_each
from llmsrec.refine import Refiner
from llmsrec.sasrec_files import load_sasrec
from llmsrec.settings import RefineSettings, SasrecLimits, SasrecSettings
from llmsrec.tokens import PromptTokenizer, PromptWriter

NUM_USERS = 16
MAX_LENGTH = 29
NUM_WINDOWS = 2

pytestmark = pytest.mark.usefixtures("one_thread")

KILLED_WHILE_READING = """
import argparse
import os
import signal
import sys
import torch
from llmsrec import readouts, refine
from llmsrec.arguments import add_refine

def die_at_the_seventh(model, window):
    global num_read
    num_read += 1
    if num_read == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(model, window)

num_read, read = 0, readouts.readouts_after_each
readouts.readouts_after_each = die_at_the_seventh
torch.set_num_threads(1)
parser = argparse.ArgumentParser()
add_refine(parser)
refine.run(parser.parse_args(sys.argv[1:]))
"""


class Inputs(NamedTuple):
    dataset: Dataset
    folder: Path

    def command(self, output: Path, *options: str) -> list[str]:
        named = [f"--{name}={self.folder / name}" for name in ("dataset", "sasrec")]
        sizes = [f"--windows={NUM_WINDOWS}", "--batch-size=16", "--precision=fp32"]
        return [str(self.folder / "trained"), *named, f"--output={output}", *sizes, *options]

    def run(self, output: Path, *options: str) -> None:
        parser = argparse.ArgumentParser()
        add_refine(parser)
        refine.run(parser.parse_args(self.command(output, *options)))

    def trained(self) -> Checkpoint:
        return checkpoint.load(self.folder / "trained")

    def model(self) -> tuple[LLMSRec, PromptWriter]:
        model, tokenizer = self.trained().load_model()
        return model, PromptWriter(PromptTokenizer(tokenizer), self.dataset.titles)

    def refiner(self, read: Readouts, settings: RefineSettings) -> Refiner:
        teacher, _ = load_sasrec(self.folder / "sasrec")
        return Refiner(self.dataset, self.trained().heads, read, teacher, settings)


@pytest.fixture(scope="module")
def inputs(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder, dataset = tmp_path_factory.mktemp("inputs"), ring_dataset(NUM_USERS, MAX_LENGTH)
    dataset.save(folder / "dataset")
    teacher = train_sasrec.Trainer(dataset, SasrecSettings(learning_rate=0.01))
    teacher.run(folder / "sasrec", SasrecLimits(epochs=10), Progress(disable=True))
    source = llm.locate(str(reference_dir / "llm"))
    decoder, _ = llm.load(source, torch.float32)
    torch.manual_seed(0)
    heads = Heads(decoder.config.hidden_size)
    heads.draw_readouts(decoder.get_input_embeddings().get_parameter("weight"))
    untrained = Checkpoint(
        config=CheckpointConfig(
            model_version="ring", llm_dim=decoder.config.hidden_size, num_items=NUM_ITEMS
        ),
        heads=heads,
        item_table=load_sasrec(folder / "sasrec")[0].item_emb.weight.detach()[1:].clone(),
        catalogue=dataset.catalogue,
        histories=checkpoint.sample_histories(dataset),
        llm_source=source,
    )
    checkpoint.save(folder / "trained", untrained)
    return Inputs(dataset, folder)


@pytest.fixture(scope="module")
def read(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Readouts:
    path = tmp_path_factory.mktemp("read") / "readouts.npy"
    windows = newest_windows(inputs.dataset, NUM_WINDOWS)
    return collect(*inputs.model(), windows, path, Progress(disable=True))


def test_branches_read_out_what_each_shorter_prompt_does(inputs: Inputs) -> None:
    model, writer = inputs.model()
    rows, times = [3, 1, 4, 1, 5], [0, None, 86_400_000, 2**40, None]
    with torch.inference_mode():
        found = readouts_after_each(model, writer.user(rows, times))
        for length in range(1, 6):
            written = writer.user(rows[:length], times[:length])
            expected = model.readout(*model.collate([written]))[0]
            torch.testing.assert_close(found[length - 1], expected, rtol=1e-4, atol=1e-5)


def test_windows_end_with_the_training_part_and_do_not_overlap(inputs: Inputs) -> None:
    _, *bounds = newest_windows(inputs.dataset, NUM_WINDOWS)
    covered: dict[int, list[int]] = {user: [] for user in range(NUM_USERS)}
    for user, start, end in zip(*bounds, strict=True):
        assert 0 < end - start <= 10
        covered[int(user)] += range(start, end)
    for user, places in covered.items():
        length = len(inputs.dataset.training_part(user)[0])
        assert sorted(places) == list(range(max(length - 10 * NUM_WINDOWS, 0), length))


def test_each_sample_is_read_from_the_window_before_its_target(
    inputs: Inputs, read: Readouts
) -> None:
    model, writer = inputs.model()
    starts = {}
    _, *bounds = newest_windows(inputs.dataset, NUM_WINDOWS)
    for user, start, end in zip(*bounds, strict=True):
        starts.update({(user, place): start for place in range(start + 1, end + 1)})
    assert sorted(starts) == sorted(zip(read.users, read.positions, strict=True))
    prompts = []
    for user, position in zip(read.users, read.positions, strict=True):
        rows, times = inputs.dataset.sequence(user)
        kept = slice(starts[user, position], position)
        prompts.append(writer.user(rows[kept].tolist(), times[kept].tolist()))
    with torch.inference_mode():
        expected = model.readout(*model.collate(prompts))
        items = model.readout(*model.collate([writer.item(row) for row in range(NUM_ITEMS)]))
    torch.testing.assert_close(read.states, expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(read.items, items, rtol=2e-3, atol=2e-3)


def test_samples_train_on_the_training_part_alone(inputs: Inputs, read: Readouts) -> None:
    refiner = inputs.refiner(read, RefineSettings())
    dataset = inputs.dataset
    for sample in refiner.training:
        rows, _ = dataset.training_part(read.users[sample])
        assert refiner.targets[sample] == rows[read.positions[sample]]
    assert refiner.targets[refiner.validation].tolist() == dataset.validation_targets.tolist()
    assert read.users[refiner.validation].tolist() == list(range(NUM_USERS))


def test_loss_ranks_the_target_among_items_the_user_never_had(
    inputs: Inputs, read: Readouts
) -> None:
    refiner = inputs.refiner(read, RefineSettings())
    batch = refiner.training[:5]
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        found = refiner.loss(batch, rng)
        users = refiner.heads.pred_user(read.states[batch])
        items = refiner.heads.pred_item(read.items)
        ranking = []
        for sample, user in zip(batch, users, strict=True):
            had = set(inputs.dataset.training_part(read.users[sample])[0].tolist())
            target = refiner.targets[sample]
            kept = [target, *(row for row in range(NUM_ITEMS) if row not in had)]
            ranking.append(-torch.log_softmax(items[kept] @ user, 0)[0])
        states = refiner.teacher_states[batch]
        rest = representation_loss(users, refiner.teacher_head(states))
    assert found.item() == pytest.approx(torch.stack(ranking).mean().item() + rest.item(), abs=1e-4)


def test_large_catalogue_is_sampled_and_keeps_the_targets(inputs: Inputs, read: Readouts) -> None:
    refiner = inputs.refiner(read, RefineSettings(candidates=7))
    targets = refiner.targets[refiner.training[:4]]
    rng = np.random.default_rng(0)
    drawn = [refiner.draw_candidates(targets, rng) for _ in range(200)]
    for rows in drawn:
        assert set(targets.tolist()) <= set(rows.tolist())
        assert 7 <= len(rows) <= 7 + len(set(targets.tolist()))
        assert np.all(np.diff(rows) > 0)
    assert len(np.unique(np.concatenate(drawn))) == NUM_ITEMS


def test_refining_learns_the_next_item(inputs: Inputs, read: Readouts) -> None:
    refiner = inputs.refiner(read, RefineSettings(epochs=12, patience=12, batch_size=16))
    before = refiner.best
    refiner.run(Progress(disable=True))
    assert refiner.best["hr@10"] > before["hr@10"] + 0.2
    assert refiner.validate() == refiner.best


def test_refining_changes_the_two_heads_and_nothing_else(inputs: Inputs, read: Readouts) -> None:
    refiner = inputs.refiner(read, RefineSettings(epochs=1))
    refiner.best["hr@10"] = -1.0
    refiner.run(Progress(disable=True))
    before = inputs.trained().heads.state_dict()
    for name, value in refiner.heads.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith("pred_"), name


def test_refining_without_a_gain_keeps_the_heads_it_was_given(
    inputs: Inputs, read: Readouts
) -> None:
    refiner = inputs.refiner(read, RefineSettings(epochs=2))
    refiner.best["hr@10"] = 2.0
    refiner.run(Progress(disable=True))
    assert refiner.best_epoch == 0
    before = inputs.trained().heads.state_dict()
    for name, value in refiner.heads.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_killed_reading_goes_on_and_ends_like_an_undisturbed_one(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    command = [sys.executable, "-c", KILLED_WHILE_READING, *inputs.command(killed, "--epochs=2")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not killed.exists()
    num_read = []

    def count(*arguments: object) -> torch.Tensor:
        num_read.append(1)
        return readouts_after_each(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(readouts, "readouts_after_each", count)
    inputs.run(killed, "--epochs=2")
    assert len(num_read) == len(newest_windows(inputs.dataset, NUM_WINDOWS).users) - 6
    inputs.run(undisturbed, "--epochs=2")
    heads = [(output / "heads.safetensors").read_bytes() for output in (killed, undisturbed)]
    assert heads[0] == heads[1]


def test_refined_checkpoint_says_how_it_was_made(inputs: Inputs, tmp_path: Path) -> None:
    inputs.run(tmp_path / "out", "--epochs=3", "--seed=5")
    config = checkpoint.load(tmp_path / "out").config
    assert config.training["refine_seed"] == 5
    assert config.training["refine_windows"] == NUM_WINDOWS
    assert config.model_version == f"ring-refined-{config.training['refine_best_epoch']}"
    assert set(config.metrics["validation"]) == {"hr@10", "ndcg@10"}


def test_interactions_that_no_prompt_holds_are_no_samples(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt, "MAX_PROMPT_TOKENS", 300)
    windows = newest_windows(inputs.dataset, 1)
    kept = collect(*inputs.model(), windows, tmp_path / "kept.npy", Progress(disable=True))
    num_whole = int((windows.ends - windows.starts).sum())
    assert NUM_USERS < len(kept.states) < num_whole
    assert not kept.states.isnan().any()
    lengths = [len(inputs.dataset.training_part(user)[0]) for user in range(NUM_USERS)]
    newest = dict(zip(kept.users, kept.positions, strict=True))
    assert [newest[user] for user in range(NUM_USERS)] == lengths


def test_output_that_is_no_checkpoint_is_refused_before_any_reading(
    inputs: Inputs, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        inputs.run(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_sasrec_of_another_dataset_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    ring_dataset(NUM_USERS - 1).save(tmp_path / "dataset")
    with pytest.raises(DataError, match="--sasrec was trained on another dataset"):
        inputs.run(tmp_path / "out", f"--dataset={tmp_path / 'dataset'}")
