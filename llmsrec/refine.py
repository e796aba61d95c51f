"""Trains the two output heads of a checkpoint further, on readouts that are computed once.

With the projector and the readout vectors frozen, what the LLM reads out of a prompt is a constant.
So the LLM runs once over every window, forward only, and the heads then train for many epochs in
minutes, on every position of a sequence and against the whole catalogue.
"""

import argparse
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from llmsrec import checkpoint, metrics
from llmsrec.dataset import Dataset
from llmsrec.files import claimed, require_apart
from llmsrec.losses import representation_loss
from llmsrec.model import COLLABORATIVE_DIM, VECTOR_DIM, Heads, head
from llmsrec.progress import progress_bars
from llmsrec.readouts import Readouts, collect, newest_windows
from llmsrec.sasrec import SASRec, pad_sequences
from llmsrec.sasrec_files import load_sasrec
from llmsrec.settings import RefineSettings
from llmsrec.tokens import PromptTokenizer, PromptWriter
from llmsrec.train import DTYPES

_TEACHERS_AT_ONCE = 512


class Refiner:
    """Holds what one training of the heads needs; `heads` are trained in place."""

    def __init__(
        self,
        dataset: Dataset,
        heads: Heads,
        readouts: Readouts,
        teacher: SASRec,
        settings: RefineSettings,
    ) -> None:
        self.dataset, self.heads, self.readouts = dataset, heads, readouts
        self.settings = settings
        firsts, ends = dataset.offsets[:-1], dataset.offsets[1:]
        places = firsts[readouts.users] + readouts.positions  # [S], of the targets
        self.targets = dataset.item_rows[places]  # [S]
        is_validation = places == ends[readouts.users] - 2
        self.training = np.flatnonzero(~is_validation)
        self.validation = np.flatnonzero(is_validation)
        self.teacher_states = self._read_teacher(teacher)  # [S, 64]
        torch.manual_seed(settings.seed)
        self.teacher_head = head(COLLABORATIVE_DIM, VECTOR_DIM, VECTOR_DIM, nn.GELU())
        trained = nn.ModuleList([heads.pred_user, heads.pred_item, self.teacher_head])
        self.optimiser = torch.optim.Adam(
            trained.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        self.best_epoch = 0
        self.best = self.validate()

    def run(self, bars: Progress) -> None:
        """Train until a limit is reached and leave the heads of the best epoch."""
        best_heads = _copy(self.heads)
        task = bars.add_task("heads", total=self.settings.epochs)
        for epoch in range(1, self.settings.epochs + 1):
            loss = self._run_epoch(epoch)
            measured = self.validate()
            bars.console.print(
                f"epoch {epoch}: loss {loss:.3f}, validation HR@10 {measured['hr@10']:.3f},"
                f" NDCG@10 {measured['ndcg@10']:.3f}"
            )
            bars.advance(task)
            if measured["hr@10"] > self.best["hr@10"]:
                self.best, self.best_epoch, best_heads = measured, epoch, _copy(self.heads)
            if epoch - self.best_epoch >= self.settings.patience:
                break
        bars.remove_task(task)
        self.heads.load_state_dict(best_heads)

    def loss(self, batch: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Give the loss of some samples, each ranked against the drawn items it never had."""
        targets = self.targets[batch]
        rows = self.draw_candidates(targets, rng)  # [C], ascending
        places = np.searchsorted(rows, targets)  # [B]
        users = self.heads.pred_user(self.readouts.states[batch])  # [B, D]
        items = self.heads.pred_item(self.readouts.items[rows])  # [C, D]
        had = torch.from_numpy(self._had(batch, rows, places))  # [B, C]
        scores = (users @ items.T).masked_fill(had, -torch.inf)
        teachers = self.teacher_head(self.teacher_states[batch])  # [B, D]
        ranking = functional.cross_entropy(scores, torch.from_numpy(places))
        return ranking + representation_loss(users, teachers)

    def validate(self) -> dict[str, float]:
        """Rank each validation target among its saved negatives."""
        users = self.readouts.users[self.validation]
        candidates = self.dataset.validation_candidates()[users]  # [V, 1 + 99]
        with torch.inference_mode():
            items = self.heads.pred_item(self.readouts.items).numpy()  # [N, D]
            vectors = self.heads.pred_user(self.readouts.states[self.validation]).numpy()  # [V, D]
        ranks = metrics.ranks_of_first(np.einsum("vd,vcd->vc", vectors, items[candidates]))
        return {"hr@10": metrics.hit_rate(ranks, 10), "ndcg@10": metrics.ndcg(ranks, 10)}

    def _run_epoch(self, epoch: int) -> float:
        rng = np.random.default_rng([self.settings.seed, epoch])
        losses = []
        for batch in self._draw_batches(rng):
            loss = self.loss(batch, rng)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses.append(loss.item())
        for group in self.optimiser.param_groups:
            group["lr"] *= 0.95
        return float(np.mean(losses))

    def _draw_batches(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(self.training)
        for start in range(0, len(order), self.settings.batch_size):
            yield order[start : start + self.settings.batch_size]

    def draw_candidates(
        self, targets: NDArray[np.int32], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw the rows that a step ranks, ascending, with its targets among them."""
        num_items = self.dataset.num_items
        if num_items <= self.settings.candidates:
            return np.arange(num_items)
        drawn = rng.choice(num_items, self.settings.candidates, replace=False)
        return np.union1d(drawn, targets)

    def _had(
        self, batch: NDArray[np.int64], rows: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Tell which candidates stand in a user's training part and are not the target."""
        parts = [self.dataset.training_part(user)[0] for user in self.readouts.users[batch]]
        had = np.stack([np.isin(rows, part) for part in parts])
        had[np.arange(len(batch)), places] = False
        return had

    def _read_teacher(self, teacher: SASRec) -> Tensor:
        samples = list(zip(self.readouts.users, self.readouts.positions, strict=True))
        histories = [self.dataset.sequence(user)[0][:position] for user, position in samples]
        with torch.inference_mode():
            states = [
                teacher.user_states(pad_sequences(histories[start : start + _TEACHERS_AT_ONCE]))
                for start in range(0, len(histories), _TEACHERS_AT_ONCE)
            ]
        return torch.cat(states)


def _copy(heads: Heads) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in heads.state_dict().items()}


def run(arguments: argparse.Namespace) -> None:
    settings = RefineSettings(
        **{name: getattr(arguments, name) for name in RefineSettings.__struct_fields__}
    )
    output: Path = arguments.output
    require_apart(
        output,
        checkpoint=arguments.checkpoint,
        dataset=arguments.dataset,
        sasrec=arguments.sasrec,
    )
    checkpoint.require_replaceable(output)
    with claimed(output):
        _refine(arguments, output, settings)


def _refine(arguments: argparse.Namespace, output: Path, settings: RefineSettings) -> None:
    dataset, trained = Dataset.load(arguments.dataset), checkpoint.load(arguments.checkpoint)
    trained.require_catalogue_of(dataset)
    teacher, teacher_description = load_sasrec(arguments.sasrec)
    teacher_description.require_trained_on(dataset.digest())
    origin = f"{trained.digest()} {dataset.digest()} {settings.precision} {settings.windows}"
    key = hashlib.sha256(origin.encode()).hexdigest()[:12]
    kept = output.with_name(f"{output.name}.readouts-{key}.npy")
    model, tokenizer = trained.load_model(DTYPES[settings.precision])
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    writer = PromptWriter(PromptTokenizer(tokenizer), dataset.titles)
    windows = newest_windows(dataset, settings.windows)
    with progress_bars() as bars:
        readouts = collect(model, writer, windows, kept, bars)
        refiner = Refiner(dataset, model.heads.cpu(), readouts, teacher, settings)
        refiner.run(bars)
    refinement = {**msgspec.structs.asdict(settings), "best_epoch": refiner.best_epoch}
    config = msgspec.structs.replace(
        trained.config,
        model_version=f"{trained.config.model_version}-refined-{refiner.best_epoch}",
        training={
            **trained.config.training,
            **{f"refine_{name}": value for name, value in refinement.items()},
        },
        metrics={"validation": refiner.best},
    )
    refined = dataclasses.replace(trained, config=config, heads=refiner.heads)
    checkpoint.save(output, refined, dtype=torch.float16)
