"""What the frozen LLM reads out of a dataset, computed once and kept on disk to train heads on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from llmsrec.dataset import Dataset
from llmsrec.files import written_aside
from llmsrec.model import LLMSRec
from llmsrec.prompt import MAX_INTERACTIONS
from llmsrec.tokens import PromptArrays, PromptWriter

_ITEMS_AT_ONCE = 64

Kept = NDArray[np.float16]


class Windows(NamedTuple):
    """Stretches of a dataset's sequences; each is read out after each of its interactions."""

    dataset: Dataset
    users: NDArray[np.int64]  # [W]
    starts: NDArray[np.int64]  # [W]
    ends: NDArray[np.int64]  # [W], exclusive


class Readouts(NamedTuple):
    items: Tensor  # [N, d] float32
    states: Tensor  # [S, d] float32
    users: NDArray[np.int64]  # [S]
    positions: NDArray[np.int64]  # [S], in the user's sequence, of what comes after the readout


def newest_windows(dataset: Dataset, num_windows: int) -> Windows:
    """Cut each user's training part, from its end, into windows that a prompt can hold."""
    windows = [
        (user, max(end - MAX_INTERACTIONS, 0), end)
        for user in range(dataset.num_users)
        for end in range(len(dataset.training_part(user)[0]), 0, -MAX_INTERACTIONS)[:num_windows]
    ]
    return Windows(dataset, *np.array(windows, np.int64).T)


def collect(
    model: LLMSRec, writer: PromptWriter, windows: Windows, path: Path, bars: Progress
) -> Readouts:
    """Read out all items and windows into the file `path`, and go on with what it holds."""
    dataset, users, starts, ends = windows
    num_items, lengths = dataset.num_items, ends - starts
    firsts = num_items + np.cumsum(lengths) - lengths  # [W], rows in the file
    kept = _open(path, num_items + int(lengths.sum()), model.heads.CLS.numel())
    with torch.inference_mode():
        _read_items(model, writer, kept[:num_items], bars)
        task = bars.add_task("readouts of users", total=len(users))
        for user, start, end, first in zip(users, starts, ends, firsts, strict=True):
            history = (part[start:end].tolist() for part in dataset.sequence(user))
            _read_window(model, writer.user(*history), kept[first : first + end - start])
            bars.advance(task)
        bars.remove_task(task)
    items, states = (
        torch.from_numpy(part.astype(np.float32)) for part in (kept[:num_items], kept[num_items:])
    )
    positions = np.arange(num_items, len(kept)) + np.repeat(starts + 1 - firsts, lengths)
    whole = ~states.isnan().any(1)
    return Readouts(items, states[whole], np.repeat(users, lengths)[whole], positions[whole])


def readouts_after_each(model: LLMSRec, window: PromptArrays) -> Tensor:
    """Give what a user's prompt reads out after its first, second, … last interaction `[n, d]`.

    One forward serves all: the prompt's closing follows each interaction as a branch, which sees
    the prompt up to there and itself.
    """
    source, positions, visible = _branches(window[1])
    device = model.item_table.device
    tokens, slots = (torch.from_numpy(ids[source].astype(np.int64)) for ids in window)
    embedded = model.embed(tokens[None].to(device), slots[None].to(device), model.item_table)
    hidden = torch.from_numpy(~visible).to(device)  # [T, T]
    mask = embedded.new_zeros(visible.shape).masked_fill(hidden, -torch.inf)
    states = model.llm(
        inputs_embeds=embedded,  # [1, T, d]
        attention_mask=mask[None, None],
        position_ids=torch.from_numpy(positions)[None].to(device),
        use_cache=False,
    ).last_hidden_state[0]
    readouts: Tensor = states[torch.from_numpy(slots.numpy() < 0)].float()
    return readouts


def _branches(
    slot_ids: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Give each token's place in the prompt, its position, and which tokens it sees."""
    ends = np.flatnonzero(slot_ids > 0)  # [n]
    prompt = np.arange(ends[-1] + 1)
    closing = np.arange(ends[-1] + 1, len(slot_ids))  # [C]
    source = np.concatenate([prompt, np.tile(closing, len(ends))])  # [T]
    after = ends[:, None] + closing - ends[-1]  # [n, C]
    positions = np.concatenate([prompt, after.ravel()])
    reach = np.concatenate([prompt, np.repeat(ends, len(closing))])  # [T]
    branch = np.concatenate(
        [np.full(len(prompt), -1), np.repeat(np.arange(len(ends)), len(closing))]
    )  # [T]
    places = np.arange(len(source))
    sees_prompt = (branch == -1) & (places <= reach[:, None])
    sees_itself = (branch == branch[:, None]) & (places <= places[:, None])
    return source, positions, sees_prompt | sees_itself


def _open(path: Path, num_rows: int, width: int) -> Kept:
    """Open the file, whose rows are NaN until they are computed."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            open_memmap(aside, "w+", np.float16, (num_rows, width))[:] = np.nan
    kept: Kept = open_memmap(path, "r+")
    return kept


def _read_items(model: LLMSRec, writer: PromptWriter, kept: Kept, bars: Progress) -> None:
    task = bars.add_task("readouts of items", total=len(kept))
    for start in range(0, len(kept), _ITEMS_AT_ONCE):
        rows = kept[start : start + _ITEMS_AT_ONCE]
        if np.isnan(rows[-1, -1]):
            prompts = [writer.item(start + row) for row in range(len(rows))]
            rows[:] = model.readout(*model.collate(prompts)).cpu().numpy()
        bars.advance(task, len(rows))
    bars.remove_task(task)


def _read_window(model: LLMSRec, window: PromptArrays, rows: Kept) -> None:
    """Fill a window's rows; where the oldest interactions do not fit in, theirs stay NaN."""
    if np.isnan(rows[-1, -1]):
        read = readouts_after_each(model, window)
        rows[-len(read) :] = read.cpu().numpy()
