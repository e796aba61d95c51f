"""Trains the heads of LLM-SRec over item segments, on every position of a window at once."""

import argparse
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from llmsrec import checkpoint, llm, metrics
from llmsrec.candidates import Candidates, draw_candidates, softmax_loss
from llmsrec.dataset import Dataset
from llmsrec.errors import TrainingError
from llmsrec.files import claimed, require_apart
from llmsrec.model import Heads
from llmsrec.progress import progress_bars
from llmsrec.prompt import SEGMENTS_TEMPLATE_VERSION
from llmsrec.sasrec import SASRec
from llmsrec.sasrec_files import Description, load_sasrec
from llmsrec.segments.encoding import SegmentsEncoder
from llmsrec.segments.model import SegmentsModel
from llmsrec.segments.sampling import Step, draw_steps
from llmsrec.segments.titles import read_titles, tokenise
from llmsrec.settings import SegmentsSettings
from llmsrec.tokens import PromptTokenizer
from llmsrec.train import DTYPES
from llmsrec.training_state import load_state, save_state

WARM_UP_STEPS = 50
MAX_GRADIENT = 1.0

_STATE = "training.state"


class Trainer:
    """Holds what one training needs: data, model, optimiser, the best heads so far."""

    def __init__(
        self,
        dataset: Dataset,
        sasrec: tuple[SASRec, Description],
        llm_name: str,
        settings: SegmentsSettings,
        bars: Progress,
    ) -> None:
        teacher, described = sasrec
        described.require_trained_on(dataset.digest())
        self.dataset, self.settings = dataset, settings
        self.source = llm.locate(llm_name)
        self.origin = {
            "dataset_sha256": described.dataset_sha256,
            "sasrec_sha256": described.weights_sha256,
            "llm_sha256": self.source.sha256,
            **msgspec.structs.asdict(settings),
        }
        torch.manual_seed(settings.seed)
        decoder, tokenizer = llm.load(self.source, DTYPES[settings.precision])
        heads = Heads(decoder.config.hidden_size)
        heads.draw_readouts(decoder.get_input_embeddings().get_parameter("weight"))
        table = teacher.item_emb.weight.detach()[1:].clone()  # [N, 64]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = SegmentsModel(decoder, settings.num_layers, heads, table).to(device)
        ragged = tokenise(PromptTokenizer(tokenizer), dataset.titles)
        self.titles = read_titles(self.model.layers, self.model.embedding, ragged, bars)
        self.optimiser = torch.optim.AdamW(
            heads.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
        )
        self.num_steps = 0
        self.epoch = 0
        self.best_epoch = 0
        self.best = {"hr@10": -1.0, "ndcg@10": -1.0}

    def run(self, output: Path, bars: Progress) -> None:
        """Train, or go on training, to the last epoch; `output` holds the best so far."""
        state = output.with_name(f"{output.name}.{_STATE}")
        self._resume(state)
        task = bars.add_task("segments", total=self.settings.epochs, completed=self.epoch)
        while self.epoch < self.settings.epochs:
            loss = self._run_epoch(bars)
            self.epoch += 1
            measured = self.validate(bars)
            bars.console.print(
                f"epoch {self.epoch}: loss {loss:.3f}, validation HR@10 {measured['hr@10']:.3f},"
                f" NDCG@10 {measured['ndcg@10']:.3f}"
            )
            if measured["ndcg@10"] > self.best["ndcg@10"]:
                self.best, self.best_epoch = measured, self.epoch
                self._write_checkpoint(output)
            self._save(state)
            bars.advance(task)
        bars.remove_task(task)

    def loss(self, step: Step, candidates: Candidates) -> Tensor:
        """Give the mean loss over all positions: each target against the candidates."""
        model, has_target = self.model, step.targets >= 0
        read = np.unique(step.windows[step.windows >= 0])
        needed = np.union1d(read, candidates.rows)
        items = model.read_items(needed, self.titles)
        index = torch.from_numpy(np.searchsorted(needed, np.maximum(step.windows, read[0])))
        states = model.read_users(items.slots, index.to(items.states.device))  # [B, W, d]
        users = model.heads.pred_user(states[torch.from_numpy(has_target)])  # [P, D]
        places = np.searchsorted(needed, candidates.rows)
        vectors = model.heads.pred_item(items.states[torch.from_numpy(places)])  # [C, D]
        had = self._had(step, candidates)[np.nonzero(has_target)[0]]  # [P, C]
        on_device = torch.from_numpy(had).to(users.device)
        return softmax_loss(users @ vectors.T, step.targets[has_target], on_device, candidates)

    def learn(self, step: Step, candidates: Candidates) -> float:
        """Take one step of the optimiser and give the loss before it."""
        loss = self.loss(step, candidates)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.heads.parameters(), MAX_GRADIENT)
        self.optimiser.step()
        return loss.item()

    def validate(self, bars: Progress) -> dict[str, float]:
        """Rank each validation target among its saved negatives."""
        dataset = self.dataset
        encoder = SegmentsEncoder(self.model, self.titles, self.settings.window)
        histories = [
            dataset.validation_history(user)[0].tolist() for user in range(dataset.num_users)
        ]
        items, users = encoder.encode(dataset.num_items, [histories], bars)
        candidates = dataset.validation_candidates()  # [U, 1 + 99]
        ranks = metrics.ranks_of_first(np.einsum("ud,ucd->uc", users[0], items[candidates]))
        return {"hr@10": metrics.hit_rate(ranks, 10), "ndcg@10": metrics.ndcg(ranks, 10)}

    def _run_epoch(self, bars: Progress) -> float:
        steps = draw_steps(self.dataset, self.settings, self.epoch)
        total = len(steps) * self.settings.epochs
        task = bars.add_task(f"epoch {self.epoch + 1}", total=len(steps))
        losses = []
        for step in steps:
            self._set_learning_rate(total)
            rng = np.random.default_rng([self.settings.seed, self.epoch, self.num_steps])
            targets = step.targets[step.targets >= 0]
            candidates = draw_candidates(
                targets, self.dataset.num_items, self.settings.candidates, rng
            )
            losses.append(self.learn(step, candidates))
            self.num_steps += 1
            described = f"epoch {self.epoch + 1}, loss {losses[-1]:.3f}"
            bars.update(task, advance=1, description=described)
        bars.remove_task(task)
        return float(np.mean(losses))

    def _set_learning_rate(self, total: int) -> None:
        """Rise over the first steps, then fall to nothing at the last."""
        share = min((self.num_steps + 1) / WARM_UP_STEPS, 1) * (1 - self.num_steps / total)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * share

    def _had(self, step: Step, candidates: Candidates) -> NDArray[np.bool_]:
        """Tell which candidates each window's user has in training, `[B, C]`."""
        parts = [self.dataset.training_part(user)[0] for user in step.users.tolist()]
        return np.stack([np.isin(candidates.rows, part) for part in parts])

    def _write_checkpoint(self, output: Path) -> None:
        dataset, settings = self.dataset, self.settings
        config = checkpoint.CheckpointConfig(
            model_version=f"{dataset.name}-{self.source.sha256[:8]}-segments-{self.best_epoch}",
            template_version=SEGMENTS_TEMPLATE_VERSION,
            segments=checkpoint.SegmentsShape(settings.num_layers, settings.window),
            llm_dim=self.model.heads.CLS.numel(),
            num_items=dataset.num_items,
            training={**self.origin, "best_epoch": self.best_epoch},
            metrics={"validation": self.best},
        )
        trained = checkpoint.Checkpoint(
            config=config,
            heads=self.model.heads,
            item_table=self.model.item_table,
            catalogue=dataset.catalogue,
            histories=checkpoint.sample_histories(dataset, settings.window),
            llm_source=self.source,
            public_source=checkpoint.public_source(dataset),
        )
        checkpoint.save(output, trained, dtype=torch.float16)

    def _save(self, path: Path) -> None:
        state = {
            "heads": self.model.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "num_steps": self.num_steps,
            "best_epoch": self.best_epoch,
            "best": self.best,
        }
        save_state(path, state, self.origin)

    def _resume(self, path: Path) -> None:
        state = load_state(path, self.origin)
        if state is not None:
            self.model.heads.load_state_dict(state["heads"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.epoch, self.num_steps = state["epoch"], state["num_steps"]
            self.best_epoch, self.best = state["best_epoch"], state["best"]


def run(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    require_apart(
        output, dataset=arguments.dataset, sasrec=arguments.sasrec, llm=Path(arguments.llm)
    )
    checkpoint.require_replaceable(output)
    try:
        settings = msgspec.convert(vars(arguments), SegmentsSettings)
    except msgspec.ValidationError as error:
        raise TrainingError(f"an option does not fit: {error}") from error
    with claimed(output), progress_bars() as bars:
        if arguments.restart:
            output.with_name(f"{output.name}.{_STATE}").unlink(missing_ok=True)
        dataset, sasrec = Dataset.load(arguments.dataset), load_sasrec(arguments.sasrec)
        Trainer(dataset, sasrec, arguments.llm, settings, bars).run(output, bars)
