"""Trains the heads of LLM-SRec around a frozen LLM, with a frozen SASRec as the teacher."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from llmsrec import checkpoint, llm, metrics
from llmsrec.dataset import Dataset
from llmsrec.encoding import as_history, encode_items, encode_users
from llmsrec.files import claimed, require_apart
from llmsrec.losses import training_loss
from llmsrec.model import COLLABORATIVE_DIM, VECTOR_DIM, Heads, LLMSRec, head
from llmsrec.negatives import draw_absent_rows
from llmsrec.progress import progress_bars
from llmsrec.sasrec import SASRec, pad_sequences
from llmsrec.sasrec_files import Description, load_sasrec
from llmsrec.settings import TrainLimits, TrainSettings
from llmsrec.tokens import PromptTokenizer, PromptWriter
from llmsrec.training_state import load_state, save_state

NUM_NEGATIVES = 3
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_STATE = "training.state"
_SAVE_EVERY_STEPS = 20


class Sample(NamedTuple):
    user: int
    position: int
    """Where the target stands in the user's sequence, 1 or later; its history comes before."""
    candidates: NDArray[np.int32]  # [1 + NUM_NEGATIVES], the target first


class Trainer:
    """Holds what one training needs: data, model, teacher, optimiser, the best heads so far."""

    def __init__(
        self,
        dataset: Dataset,
        sasrec: tuple[SASRec, Description],
        llm_name: str,
        settings: TrainSettings,
    ) -> None:
        teacher, teacher_description = sasrec
        teacher_description.require_trained_on(dataset.digest())
        self.dataset = dataset
        self.settings = settings
        self.source = llm.locate(llm_name)
        self.origin = {
            "dataset_sha256": teacher_description.dataset_sha256,
            "sasrec_sha256": teacher_description.weights_sha256,
            "llm_sha256": self.source.sha256,
            **msgspec.structs.asdict(settings),
        }
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        decoder, tokenizer = llm.load(self.source, DTYPES[settings.precision])
        heads = Heads(decoder.config.hidden_size)
        heads.draw_readouts(decoder.get_input_embeddings().get_parameter("weight"))
        table = teacher.item_emb.weight.detach()[1:].clone()  # [N, 64]
        self.model = LLMSRec(decoder, heads, table).to(device)
        self.writer = PromptWriter(PromptTokenizer(tokenizer), dataset.titles)
        self.teacher = teacher.requires_grad_(requires_grad=False).to(device)
        self.teacher_head = head(COLLABORATIVE_DIM, VECTOR_DIM, VECTOR_DIM, nn.GELU()).to(device)
        self.trained = nn.ModuleDict({"heads": heads, "teacher_head": self.teacher_head})
        self.optimiser = torch.optim.Adam(
            self.trained.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        self.epoch = 0
        self.step = 0
        self.best_epoch = 0
        self.best = {"hr@10": -1.0, "ndcg@10": -1.0}

    def run(self, output: Path, limits: TrainLimits, bars: Progress) -> None:
        """Train, or go on training, until a limit is reached; `output` holds the best so far."""
        state = output.with_name(f"{output.name}.{_STATE}")
        self._resume(state)
        task = bars.add_task("LLM-SRec", total=limits.epochs, completed=self.epoch)
        while self.epoch < limits.epochs and self.epoch - self.best_epoch < limits.patience:
            self._run_epoch(state, bars)
            measured = self.validate(bars)
            self.epoch, self.step = self.epoch + 1, 0
            for group in self.optimiser.param_groups:
                group["lr"] *= 0.95
            bars.console.print(
                f"epoch {self.epoch}: validation HR@10 {measured['hr@10']:.3f},"
                f" NDCG@10 {measured['ndcg@10']:.3f}"
            )
            if measured["hr@10"] > self.best["hr@10"]:
                self.best, self.best_epoch = measured, self.epoch
                self._write_checkpoint(output)
            self._save(state)
            described = f"LLM-SRec, best HR@10 {self.best['hr@10']:.3f}, NDCG@10"
            bars.update(task, advance=1, description=f"{described} {self.best['ndcg@10']:.3f}")

    def loss(self, samples: list[Sample]) -> Tensor:
        sequences = [self.dataset.sequence(sample.user) for sample in samples]
        histories = [
            (rows[: sample.position], times[: sample.position])
            for (rows, times), sample in zip(sequences, samples, strict=True)
        ]
        prompts = [self.writer.user(rows.tolist(), times.tolist()) for rows, times in histories]
        users = self.model.user_vectors(prompts)  # [B, D]
        wanted = np.stack([sample.candidates for sample in samples])  # [B, C]
        rows, places = np.unique(wanted, return_inverse=True)
        items = self.model.item_vectors([self.writer.item(row) for row in rows.tolist()])
        candidates = items[torch.from_numpy(places.reshape(wanted.shape))]  # [B, C, D]
        sequences_seen = pad_sequences([rows for rows, _ in histories]).to(users.device)
        teachers = self.teacher_head(self.teacher.user_states(sequences_seen))  # [B, D]
        return training_loss(users, candidates, teachers)

    def learn(self, samples: list[Sample]) -> float:
        """Take one step of the optimiser and give the loss before it."""
        loss = self.loss(samples)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.item()

    def validate(self, bars: Progress) -> dict[str, float]:
        """Rank each validation target among its saved negatives."""
        dataset = self.dataset
        num_users = self.settings.num_validation_users or dataset.num_users
        users = range(min(num_users, dataset.num_users))
        histories = [as_history(dataset.validation_history(user)) for user in users]
        item_vectors = encode_items(self.model, self.writer, dataset.num_items, bars)
        user_vectors = encode_users(self.model, self.writer, histories, bars)
        candidates = dataset.validation_candidates()[: len(users)]  # [U, 1 + 99]
        scores = np.einsum("ud,ucd->uc", user_vectors, item_vectors[candidates])
        ranks = metrics.ranks_of_first(scores)
        return {"hr@10": metrics.hit_rate(ranks, 10), "ndcg@10": metrics.ndcg(ranks, 10)}

    def _run_epoch(self, state: Path, bars: Progress) -> None:
        batches = list(self.draw_batches())
        task = bars.add_task(f"epoch {self.epoch + 1}", total=len(batches), completed=self.step)
        for batch in batches[self.step :]:
            loss = self.learn(batch)
            self.step += 1
            if self.step % _SAVE_EVERY_STEPS == 0:
                self._save(state)
            described = f"epoch {self.epoch + 1}, loss {loss:.3f}"
            bars.update(task, advance=1, description=described)
        bars.remove_task(task)

    def draw_batches(self) -> Iterator[list[Sample]]:
        """Draw one position a user; seeded by the epoch, so that a resumed one repeats it."""
        rng = np.random.default_rng([self.settings.seed, self.epoch])
        users = rng.permutation(self.dataset.num_users).tolist()
        samples = [self._draw(user, rng) for user in users if self._num_trained(user) > 1]
        for start in range(0, len(samples), self.settings.batch_size):
            yield samples[start : start + self.settings.batch_size]

    def _draw(self, user: int, rng: np.random.Generator) -> Sample:
        rows, _ = self.dataset.training_part(user)
        position = int(rng.integers(1, len(rows)))
        negatives = draw_absent_rows(rng, rows, self.dataset.num_items, (NUM_NEGATIVES,))
        return Sample(user, position, np.append(rows[position], negatives))

    def _num_trained(self, user: int) -> int:
        return len(self.dataset.training_part(user)[0])

    def _write_checkpoint(self, output: Path) -> None:
        config = checkpoint.CheckpointConfig(
            model_version=f"{self.dataset.name}-{self.source.sha256[:8]}-epoch-{self.best_epoch}",
            llm_dim=self.model.heads.CLS.numel(),
            num_items=self.dataset.num_items,
            training={**self.origin, "best_epoch": self.best_epoch},
            metrics={"validation": self.best},
        )
        dataset, model = self.dataset, self.model
        trained = checkpoint.Checkpoint(
            config=config,
            heads=model.heads,
            item_table=model.item_table,
            catalogue=dataset.catalogue,
            histories=checkpoint.sample_histories(dataset),
            llm_source=self.source,
            public_source=checkpoint.public_source(dataset),
        )
        checkpoint.save(output, trained, dtype=torch.float16)

    def _save(self, path: Path) -> None:
        state = {
            "trained": self.trained.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best_epoch": self.best_epoch,
            "best": self.best,
        }
        save_state(path, state, self.origin)

    def _resume(self, path: Path) -> None:
        state = load_state(path, self.origin)
        if state is not None:
            self.trained.load_state_dict(state["trained"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.epoch, self.step = state["epoch"], state["step"]
            self.best_epoch, self.best = state["best_epoch"], state["best"]


def run(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    require_apart(
        output, dataset=arguments.dataset, sasrec=arguments.sasrec, llm=Path(arguments.llm)
    )
    checkpoint.require_replaceable(output)
    settings = TrainSettings(
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        num_validation_users=arguments.validation_users,
        seed=arguments.seed,
    )
    limits = TrainLimits(epochs=arguments.epochs, patience=arguments.patience)
    with claimed(output), progress_bars() as bars:
        if arguments.restart:
            output.with_name(f"{output.name}.{_STATE}").unlink(missing_ok=True)
        dataset, sasrec = Dataset.load(arguments.dataset), load_sasrec(arguments.sasrec)
        Trainer(dataset, sasrec, arguments.llm, settings).run(output, limits, bars)
