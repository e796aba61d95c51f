"""The titles' tokens of a catalogue, and what they leave behind: no slot changes either.

A slot stands after its title, and attention is causal. So with a frozen LLM the title's keys and
values are constants, and training runs the slots alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from llmsrec.batches import split_by_length
from llmsrec.prompt import MAX_CLIPPED_TITLE_TOKENS, segment_text
from llmsrec.segments.layers import Beside, FirstLayers, Kept
from llmsrec.tokens import PromptTokenizer

_TOKENS_AT_ONCE = 4096

Ragged = tuple[Tensor, NDArray[np.int64]]
"""Token ids of all titles in one row `[M]`, and where each begins `[N + 1]`."""


def tokenise(tokenizer: PromptTokenizer, titles: Sequence[str]) -> Ragged:
    """Give the token ids of each item's text, its title clipped where it is long."""
    clipped = [tokenizer.clip(title, MAX_CLIPPED_TITLE_TOKENS) for title in titles]
    ids = tokenizer.inner_ids([segment_text(title) for title in clipped])
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return torch.tensor([token for row in ids for token in row]), offsets


class Titles:
    """Keys and values of every title's tokens, in one row after another."""

    def __init__(self, kept: Kept, offsets: NDArray[np.int64]) -> None:
        self._kept = kept  # of [M, L, kv width]
        self._offsets = offsets  # [N + 1]

    def of(self, rows: NDArray[np.int64]) -> tuple[Beside, Tensor]:
        """Give what the titles of some items left behind, and their lengths `[B]`.

        Shorter ones are padded on the right, to be hidden by who attends to them.
        """
        starts, ends = self._offsets[rows], self._offsets[rows + 1]
        lengths = ends - starts
        places = np.arange(int(lengths.max(initial=1)))
        index = np.minimum(starts[:, None] + places, np.maximum(ends - 1, starts)[:, None])
        device = self._kept.keys.device
        gathered = torch.from_numpy(index).to(device)
        kept = Kept(self._kept.keys[gathered], self._kept.values[gathered])
        at = torch.from_numpy(np.broadcast_to(places, index.shape).copy()).to(device)
        return Beside(kept, at), torch.from_numpy(lengths).to(device)


def read_titles(
    layers: FirstLayers, embedding: nn.Module, ragged: Ragged, bars: Progress
) -> Titles:
    """Run all titles once, those of similar length together."""
    token_ids, offsets = ragged
    lengths = np.diff(offsets)
    device = next(embedding.parameters()).device
    keys, values = ([torch.empty(0)] * len(lengths) for _ in range(2))
    task = bars.add_task("titles", total=len(lengths))
    with torch.no_grad():
        for rows in split_by_length(lengths.tolist(), lambda n, t: n * t <= _TOKENS_AT_ONCE):
            longest = int(lengths[rows].max())
            padded = torch.zeros(len(rows), longest, dtype=torch.long)
            for place, row in enumerate(rows):
                padded[place, : lengths[row]] = token_ids[offsets[row] : offsets[row + 1]]
            at = torch.arange(longest).expand(len(rows), -1).to(device)
            causal = torch.ones(len(rows), longest, longest, dtype=torch.bool).tril().to(device)
            _, kept = layers(embedding(padded.to(device)), at, causal)
            for place, row in enumerate(rows):
                keys[row] = kept.keys[place, : lengths[row]].clone()  # [T, L, kv width]
                values[row] = kept.values[place, : lengths[row]].clone()
            bars.advance(task, len(rows))
    bars.remove_task(task)
    return Titles(Kept(torch.cat(keys), torch.cat(values)), offsets)
