"""Encodes many prompts with the PyTorch model, shortest first so that little is padding."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from llmsrec.batches import split_by_length
from llmsrec.dataset import InteractionSequence
from llmsrec.model import VECTOR_DIM, LLMSRec
from llmsrec.prompt import MAX_INTERACTIONS
from llmsrec.tokens import PromptArrays, PromptWriter

NUM_HISTORIES = 128
"""Interaction sequences on which an exported engine is compared with PyTorch."""

_MAX_BATCH_TOKENS = 4096
"""Tokens of one forward, those that only pad a shorter prompt among them."""

History = tuple[Sequence[int], Sequence[int | None]]
"""Item rows and timestamps in milliseconds of one interaction sequence, oldest first."""


def as_history(sequence: InteractionSequence, window: int = MAX_INTERACTIONS) -> History:
    """Take the newest interactions of a data set's sequence, all that a prompt can hold."""
    rows, timestamps_ms = (values[-window:].tolist() for values in sequence)
    return rows, timestamps_ms


def encode_users(
    model: LLMSRec, writer: PromptWriter, histories: Sequence[History], bars: Progress
) -> NDArray[np.float32]:
    """Give the user vectors `[len(histories), 128]`."""
    prompts = [writer.user(rows, times) for rows, times in histories]
    return _encode(model.user_vectors, prompts, bars, "user vectors (PyTorch)")


def encode_items(
    model: LLMSRec, writer: PromptWriter, num_items: int, bars: Progress
) -> NDArray[np.float32]:
    """Give the item vectors `[N, 128]` of the whole catalogue."""
    prompts = [writer.item(row) for row in range(num_items)]
    return _encode(model.item_vectors, prompts, bars, "item vectors (PyTorch)")


def _fits(num_prompts: int, longest: int) -> bool:
    return num_prompts * longest <= _MAX_BATCH_TOKENS


def _encode(
    tower: Callable[[Sequence[PromptArrays]], Tensor],
    prompts: Sequence[PromptArrays],
    bars: Progress,
    description: str,
) -> NDArray[np.float32]:
    vectors = np.empty((len(prompts), VECTOR_DIM), np.float32)
    task = bars.add_task(description, total=len(prompts))
    with torch.inference_mode():
        for batch in split_by_length([len(token_ids) for token_ids, _ in prompts], _fits):
            vectors[batch] = tower([prompts[index] for index in batch]).cpu().numpy()
            bars.advance(task, len(batch))
    bars.remove_task(task)
    return vectors
