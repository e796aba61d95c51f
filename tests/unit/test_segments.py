"""Item segments: one pass reads out every position, as the LLM does under the same attention."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.progress import Progress
from support.ring import NUM_ITEMS, ring_dataset
from torch import Tensor

from llmsrec import checkpoint, evaluate, llm, train_sasrec
from llmsrec.arguments import add_evaluate, add_study, add_train_segments
from llmsrec.candidates import Candidates
from llmsrec.dataset import Dataset
from llmsrec.errors import CheckpointError, DataError, TrainingError
from llmsrec.model import Heads
from llmsrec.sasrec_files import load_sasrec
from llmsrec.segments import study, train
from llmsrec.segments.model import SegmentsModel
from llmsrec.segments.sampling import Step, draw_steps
from llmsrec.segments.titles import Ragged, Titles, read_titles, tokenise
from llmsrec.settings import SasrecLimits, SasrecSettings, SegmentsSettings
from llmsrec.tokens import PromptTokenizer

TITLES = ["A", "A longer title of some words", "B & C", "Parts, 2nd (1997)", "Z" * 40, "é"]
NUM_LAYERS = 2
NO_BARS = Progress(disable=True)
FAR = 100
"""Where the joint pass puts its first slot, so that titles before it stand at no place below 0."""

pytestmark = pytest.mark.usefixtures("one_thread")


class Loaded(NamedTuple):
    model: SegmentsModel
    titles: Titles
    ragged: Ragged


@pytest.fixture(scope="module")
def loaded(reference_dir: Path) -> Loaded:
    decoder, tokenizer = llm.load(llm.locate(str(reference_dir / "llm")), torch.float32)
    torch.manual_seed(0)
    heads = Heads(decoder.config.hidden_size)
    heads.draw_readouts(decoder.get_input_embeddings().get_parameter("weight"))
    model = SegmentsModel(decoder, NUM_LAYERS, heads, torch.randn(len(TITLES), 64)).eval()
    ragged = tokenise(PromptTokenizer(tokenizer), TITLES)
    return Loaded(model, read_titles(model.layers, model.embedding, ragged, NO_BARS), ragged)


def read_users(loaded: Loaded, windows: list[list[int]]) -> Tensor:
    with torch.inference_mode():
        items = loaded.model.read_items(np.arange(len(TITLES)), loaded.titles)
        return loaded.model.read_users(items.slots, torch.tensor(windows))


def joint_readout(loaded: Loaded, reference_dir: Path, window: list[int]) -> Tensor:
    """Read a window out in one pass of transformers' own decoder, under a mask, `[d]`."""
    decoder: Any = llm.load(llm.locate(str(reference_dir / "llm")), torch.float32)[0]
    decoder.layers = decoder.layers[:NUM_LAYERS]
    model = loaded.model
    token_ids, offsets = loaded.ragged
    embedded, places, segments = [], [], []
    for number, row in enumerate(window):
        tokens = token_ids[offsets[row] : offsets[row + 1]]
        slot = model.heads.item_emb_proj(model.get_buffer("item_table")[row : row + 1])
        embedded.append(torch.cat([model.embedding(tokens), slot]))
        places += [FAR + number - len(tokens) + place for place in range(len(tokens) + 1)]
        segments += [number] * (len(tokens) + 1)
    embedded.append(model.heads.CLS[None])
    places.append(FAR + len(window))
    of = torch.tensor([*segments, -1])
    visible = (of[:, None] == of[None]).tril()
    visible[-1, :-1] = torch.from_numpy(np.diff(segments, append=-1) != 0)  # of each, its slot
    mask = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
    with torch.inference_mode():
        states = decoder(
            inputs_embeds=torch.cat(embedded)[None],
            attention_mask=mask[None, None],
            position_ids=torch.tensor([places]),
            use_cache=False,
        ).last_hidden_state
    last: Tensor = states[0, -1]
    return last


@pytest.mark.parametrize("window", [[0], [1, 4, 2], [5, 5, 3, 0, 1, 2, 4, 3]], ids=str)
def test_readout_is_that_of_the_llm_under_one_mask(
    loaded: Loaded, reference_dir: Path, window: list[int]
) -> None:
    expected = joint_readout(loaded, reference_dir, window)
    torch.testing.assert_close(read_users(loaded, [window])[0, -1], expected, rtol=1e-4, atol=1e-5)


def test_each_position_is_read_out_as_if_nothing_came_after(loaded: Loaded) -> None:
    windows = [[1, 4, 2, 0], [3, 3, 0, 5]]
    states = read_users(loaded, windows)  # [2, 4, d]
    with torch.inference_mode():
        slots = loaded.model.read_items(np.arange(len(TITLES)), loaded.titles).slots
        for number, window in enumerate(windows):
            starts = [window[:end] for end in range(1, 5)]
            alone = loaded.model.user_vectors(slots, starts)
            together = loaded.model.heads.pred_user(states[number])
            torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_an_item_is_read_the_same_whatever_is_read_with_it(loaded: Loaded) -> None:
    with torch.inference_mode():
        together = loaded.model.read_items(np.arange(len(TITLES)), loaded.titles)
        for row in range(len(TITLES)):
            alone = loaded.model.read_items(np.array([row]), loaded.titles)
            torch.testing.assert_close(alone.states[0], together.states[row])
            torch.testing.assert_close(alone.slots.keys[0], together.slots.keys[row])


def test_order_matters(loaded: Loaded) -> None:
    first, second = read_users(loaded, [[0, 1, 2], [1, 0, 2]])[:, -1]
    assert not torch.allclose(first, second, atol=1e-3)


class Inputs(NamedTuple):
    dataset: Dataset
    folder: Path
    llm: str

    def options(self, output: Path, *more: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_train_segments(parser)
        named = [f"--{name}={self.folder / name}" for name in ("dataset", "sasrec")]
        sizes = ["--layers=2", "--window=8", "--batch-size=8", "--epochs=6", "--learning-rate=3e-3"]
        return parser.parse_args([*named, f"--llm={self.llm}", f"--output={output}", *sizes, *more])

    def trainer(self, settings: SegmentsSettings) -> train.Trainer:
        sasrec = load_sasrec(self.folder / "sasrec")
        return train.Trainer(self.dataset, sasrec, self.llm, settings, NO_BARS)


@pytest.fixture(scope="module")
def inputs(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder, dataset = tmp_path_factory.mktemp("inputs"), ring_dataset(24, 20)
    dataset.save(folder / "dataset")
    teacher = train_sasrec.Trainer(dataset, SasrecSettings(learning_rate=0.01))
    teacher.run(folder / "sasrec", SasrecLimits(epochs=10), Progress(disable=True))
    return Inputs(dataset, folder, str(reference_dir / "llm"))


class Stopped(Exception):
    pass


def test_training_learns_the_next_item_and_goes_on_where_it_was_stopped(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.run(inputs.options(tmp_path / "whole"))
    whole = checkpoint.load(tmp_path / "whole")
    assert whole.config.metrics["validation"]["ndcg@10"] > 0.6
    validate, calls = train.Trainer.validate, []

    def stop_at_the_third(trainer: train.Trainer, bars: Progress) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        return validate(trainer, bars)

    monkeypatch.setattr(train.Trainer, "validate", stop_at_the_third)
    with pytest.raises(Stopped):
        train.run(inputs.options(tmp_path / "parts"))
    monkeypatch.undo()
    train.run(inputs.options(tmp_path / "parts"))
    assert checkpoint.load(tmp_path / "parts").digest() == whole.digest()


def test_checkpoint_is_evaluated_and_told_from_one_of_prompts(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(inputs.options(tmp_path / "segments", "--epochs=1"))
    parser = argparse.ArgumentParser()
    add_evaluate(parser)
    dataset = f"--dataset={inputs.folder / 'dataset'}"
    evaluate.run(parser.parse_args([str(tmp_path / "segments"), dataset]))
    assert "co-occurrence" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="reads item segments"):
        checkpoint.load(tmp_path / "segments").load_model()


def test_each_target_follows_what_is_read_out(inputs: Inputs) -> None:
    settings = SegmentsSettings(window=5, batch_size=4)
    for step in draw_steps(inputs.dataset, settings, epoch=0):
        assert step.windows.shape[1] <= 5
        known = step.targets >= 0
        assert ((step.windows >= 0) == known).all()
        assert (step.targets[known] == (step.windows[known] + 1) % NUM_ITEMS).all()


def test_items_drawn_as_targets_alone_are_rivals_of_none(inputs: Inputs) -> None:
    trainer = inputs.trainer(SegmentsSettings(num_layers=1, batch_size=2))
    step = Step(np.array([0, 1]), np.array([[0], [1]]), np.array([[7], [9]]))
    drawn = np.array([11, 12, 13])
    rows = np.union1d(drawn, [7, 9])
    with_targets = Candidates(rows, np.isin(rows, drawn), 0.5)
    several = trainer.loss(step, with_targets)
    singles = []
    for place in range(2):
        alone = Step(*(part[place : place + 1] for part in step))
        own = np.union1d(drawn, alone.targets)
        singles.append(trainer.loss(alone, Candidates(own, np.isin(own, drawn), 0.5)))
    torch.testing.assert_close(several, torch.stack(singles).mean())


class TestStudy:
    def run(self, inputs: Inputs, output: Path, *more: str) -> None:
        parser = argparse.ArgumentParser()
        add_study(parser)
        named = [f"--{name}={inputs.folder / name}" for name in ("dataset", "sasrec")]
        options = ["--epochs=1", "--batch-size=8", "--layers", "1", "2", "--window=8", *more]
        study.run(
            parser.parse_args([*named, f"--llm={inputs.llm}", f"--output={output}", *options])
        )

    def results(self, output: Path) -> list[study.Result]:
        return study.read_results(output / study.RESULTS, {})

    def test_ranks_each_combination_by_validation_and_trains_none_twice(
        self, inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(inputs, tmp_path / "study")
        first = (tmp_path / "study" / study.RESULTS).read_bytes()
        self.run(inputs, tmp_path / "study", "--seed", "0", "1")
        lines = (tmp_path / "study" / study.RESULTS).read_bytes()
        assert lines.startswith(first)
        results = self.results(tmp_path / "study")
        assert [(each.settings.num_layers, each.settings.seed) for each in results] == [
            (1, 0),
            (2, 0),
            (1, 1),
            (2, 1),
        ]
        for result in results:
            trained = checkpoint.load(tmp_path / "study" / study.name_of(result.settings))
            assert trained.config.metrics["validation"] == result.validation
        shown = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()[-4:]]
        assert shown == sorted(shown, reverse=True)

    def test_line_that_a_kill_cut_off_is_no_result(self, inputs: Inputs, tmp_path: Path) -> None:
        self.run(inputs, tmp_path / "study")
        path = tmp_path / "study" / study.RESULTS
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert len(self.results(tmp_path / "study")) == 1
        self.run(inputs, tmp_path / "study")
        assert len(self.results(tmp_path / "study")) == 2

    def test_results_of_other_data_are_refused(self, inputs: Inputs, tmp_path: Path) -> None:
        self.run(inputs, tmp_path / "study")
        path = tmp_path / "study" / study.RESULTS
        with pytest.raises(DataError, match="is of another sasrec"):
            study.read_results(path, {"sasrec": "x"})


@pytest.mark.parametrize("option", ["--window=0", "--layers=-1", "--learning-rate=0"])
def test_setting_out_of_its_range_is_refused(inputs: Inputs, tmp_path: Path, option: str) -> None:
    with pytest.raises(TrainingError, match="an option does not fit"):
        train.run(inputs.options(tmp_path / "out", option))


def test_layers_that_the_llm_lacks_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has 3 layers, and its first 4 are asked for"):
        train.run(inputs.options(tmp_path / "out", "--layers=4"))
