"""Trains SASRec, the teacher of LLM-SRec and the source of its collaborative embeddings."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from llmsrec import metrics
from llmsrec.candidates import draw_candidates, softmax_loss
from llmsrec.dataset import Dataset
from llmsrec.errors import DataError, TrainingError
from llmsrec.files import claimed, require_apart
from llmsrec.negatives import draw_absent_rows
from llmsrec.progress import progress_bars
from llmsrec.sasrec import DEFAULT_SHAPE, MAX_LENGTH, SASRec, pad_sequences
from llmsrec.sasrec_files import Description, save_sasrec
from llmsrec.settings import SasrecLimits, SasrecSettings
from llmsrec.training_state import load_state, save_state

Positive = Annotated[int, msgspec.Meta(ge=1)]

_STATE = "training.state"
_EVALUATION_BATCH_SIZE = 256


class Trainer:
    """Holds what one training needs: data, model, optimiser, the best weights so far."""

    def __init__(self, dataset: Dataset, settings: SasrecSettings) -> None:
        self.dataset = dataset
        self.settings = settings
        self.origin = {"dataset_sha256": dataset.digest(), **msgspec.structs.asdict(settings)}
        torch.manual_seed(settings.seed)
        self.model = initialised(SASRec(dataset.num_items, dropout=settings.dropout))
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        parts = [dataset.training_part(user)[0] for user in range(dataset.num_users)]
        self.parts = [rows for rows in parts if len(rows) > 1]
        if not self.parts:
            raise DataError(f"{dataset.name}: no user has two interactions to train on")
        self.inputs = pad_sequences([rows[:-1] for rows in self.parts])  # [U, T] int64
        self.targets = pad_sequences([rows[1:] for rows in self.parts])  # [U, T] int64
        self.epoch = 0
        self.best_ndcg = -1.0
        self.best_epoch = 0
        self.best_weights = self.model.state_dict()

    def run(self, output: Path, limits: SasrecLimits, bars: Progress) -> Description:
        """Train, or go on training, until a limit is reached; then write the best model."""
        self._resume(output / _STATE)
        task = bars.add_task("SASRec", total=limits.epochs, completed=self.epoch)
        while self.epoch < limits.epochs and self._num_stale_validations() < limits.patience:
            loss = self.run_epoch()
            self.epoch += 1
            if self.epoch % self.settings.validate_every == 0 or self.epoch == limits.epochs:
                self._validate()
            self._save(output / _STATE)
            described = f"SASRec, loss {loss:.3f}, best NDCG@10 {self.best_ndcg:.3f}"
            bars.update(task, advance=1, description=described)
        self.model.load_state_dict(self.best_weights)
        description = self._describe()
        save_sasrec(output, self.model, description)
        return description

    def loss(self, users: Tensor, negatives: Tensor) -> Tensor:
        """Give the binary cross-entropy of each position's next item and of its negative."""
        inputs, targets = self.inputs[users], self.targets[users]
        is_target = targets != 0  # [B, T]
        states = self.model.encode(inputs)[is_target]  # [P, D]
        rated = (states * self.model.item_emb(targets[is_target])).sum(-1)
        unrated = (states * self.model.item_emb(negatives[users][is_target])).sum(-1)
        return functional.softplus(-rated).mean() + functional.softplus(unrated).mean()

    def softmax_loss(self, users: Tensor, rng: np.random.Generator) -> Tensor:
        """Give the cross-entropy of each position's next item among the catalogue's."""
        inputs, targets = self.inputs[users], self.targets[users]
        is_target = targets != 0  # [B, T]
        wanted = targets[is_target].numpy() - 1  # [P]
        num_items, num_drawn = self.dataset.num_items, self.settings.candidates
        candidates = draw_candidates(wanted, num_items, num_drawn, rng)
        states = self.model.encode(inputs)[is_target]  # [P, D]
        items = self.model.item_emb(torch.from_numpy(candidates.rows + 1))  # [C, D]
        parts = [self.parts[user] for user in users.tolist()]
        had = np.stack([np.isin(candidates.rows, part) for part in parts])  # [B, C]
        of_target = torch.from_numpy(had)[is_target.nonzero()[:, 0]]  # [P, C]
        return softmax_loss(states @ items.T, wanted, of_target, candidates)

    def run_epoch(self) -> float:
        """Pass once over all users; seeded by the epoch, so that a resumed one repeats it."""
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        torch.manual_seed(int(rng.integers(2**63)))
        negatives = torch.from_numpy(self.draw_negatives(rng))
        order = rng.permutation(len(self.parts))
        self.model.train()
        losses = []
        for start in range(0, len(order), self.settings.batch_size):
            users = torch.from_numpy(order[start : start + self.settings.batch_size])
            if self.settings.loss == "softmax":
                loss = self.softmax_loss(users, rng)
            else:
                loss = self.loss(users, negatives)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses.append(loss.item())
        mean = float(np.mean(losses))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} in epoch {self.epoch + 1}; lower --learning-rate and --restart"
            )
        return mean

    def draw_negatives(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw what a user's training part lacks: to spare held-out items would give them away."""
        num_items = self.dataset.num_items
        drawn = [draw_absent_rows(rng, rows, num_items, (MAX_LENGTH,)) for rows in self.parts]
        return np.stack(drawn).astype(np.int64) + 1  # [U, T]

    def _validate(self) -> None:
        dataset = self.dataset
        histories = [dataset.validation_history(user)[0] for user in range(dataset.num_users)]
        measured = evaluate(self.model, histories, dataset.validation_candidates())
        if measured["ndcg@10"] > self.best_ndcg:
            self.best_ndcg, self.best_epoch = measured["ndcg@10"], self.epoch
            self.best_weights = {
                name: value.clone() for name, value in self.model.state_dict().items()
            }

    def _num_stale_validations(self) -> int:
        return (self.epoch - self.best_epoch) // self.settings.validate_every

    def _describe(self) -> Description:
        dataset = self.dataset
        users = range(dataset.num_users)
        validation = [dataset.validation_history(user)[0] for user in users]
        test = [dataset.test_history(user)[0] for user in users]
        return Description(
            num_items=dataset.num_items,
            shape=DEFAULT_SHAPE,
            dataset=dataset.name,
            dataset_sha256=self.origin["dataset_sha256"],
            training={**msgspec.structs.asdict(self.settings), "best_epoch": self.best_epoch},
            metrics={
                "validation": evaluate(self.model, validation, dataset.validation_candidates()),
                "test": evaluate(self.model, test, dataset.test_candidates()),
            },
        )

    def _save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "best_ndcg": self.best_ndcg,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        save_state(path, state, self.origin)

    def _resume(self, path: Path) -> None:
        state = load_state(path, self.origin)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.epoch = state["epoch"]
            self.best_ndcg = state["best_ndcg"]
            self.best_epoch = state["best_epoch"]
            self.best_weights = state["best_weights"]


def initialised(model: SASRec) -> SASRec:
    """Draw every matrix as the reference does; vectors keep what PyTorch gives them."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
    return model


@torch.inference_mode()
def evaluate(
    model: SASRec, histories: Sequence[NDArray[np.int32]], candidates: NDArray[np.int32]
) -> dict[str, float]:
    """Rank the first of each user's `candidates [U, C]` among all of them."""
    model.eval()
    scores = []
    for start in range(0, len(histories), _EVALUATION_BATCH_SIZE):
        batch = slice(start, start + _EVALUATION_BATCH_SIZE)
        states = model.user_states(pad_sequences(histories[batch]))  # [B, D]
        items = model.item_emb(torch.from_numpy(candidates[batch]).long() + 1)  # [B, C, D]
        scores.append(torch.einsum("bd,bcd->bc", states, items).numpy())
    ranks = metrics.ranks_of_first(np.concatenate(scores))
    return {"ndcg@10": metrics.ndcg(ranks, 10), "hr@10": metrics.hit_rate(ranks, 10)}


def run(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    require_apart(output, dataset=arguments.dataset)
    try:
        settings = msgspec.convert(vars(arguments), SasrecSettings)
        limits = msgspec.convert(vars(arguments), SasrecLimits)
    except msgspec.ValidationError as error:
        raise TrainingError(f"an option does not fit: {error}") from error
    with claimed(output), progress_bars() as bars:
        if arguments.restart:
            (output / _STATE).unlink(missing_ok=True)
        trainer = Trainer(Dataset.load(arguments.dataset), settings)
        description = trainer.run(output, limits, bars)
        for split, measured in description.metrics.items():
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
            bars.console.print(f"{split}: {numbers}", highlight=False)
