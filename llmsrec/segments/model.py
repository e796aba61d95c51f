"""Item and user vectors over segments, for trainings, evaluations and as an export's reference."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmsrec.model import Heads
from llmsrec.segments.layers import Beside, FirstLayers, Kept
from llmsrec.segments.titles import Titles


class Items(NamedTuple):
    """What a pass over items gives, `B` of them."""

    slots: Kept  # of [B, L, kv width]
    states: Tensor  # [B, d] float32, read out by the item's token


class SegmentsModel(nn.Module):
    """The first layers of an LLM, the heads and the collaborative item table `[N, 64]`."""

    item_table: Tensor

    def __init__(
        self, llm: PreTrainedModel, num_layers: int, heads: Heads, item_table: Tensor
    ) -> None:
        super().__init__()
        self.layers = FirstLayers(llm.requires_grad_(requires_grad=False), num_layers)
        self.embedding = llm.get_input_embeddings()
        self.heads = heads
        self.register_buffer("item_table", item_table)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.layers.parameters()).dtype

    def read_items(self, rows: NDArray[np.int64], titles: Titles) -> Items:
        """Run the slot and the readout of items after their titles."""
        beside, lengths = titles.of(rows)
        slots = self.heads.item_emb_proj(self.item_table[torch.from_numpy(rows)])  # [B, d]
        readouts = self.heads.CLS_item.expand_as(slots)
        hidden = torch.stack([slots, readouts], 1).to(self.dtype)  # [B, 2, d]
        places = lengths[:, None] + torch.arange(2, device=lengths.device)  # [B, 2]
        of_title = beside.places < lengths[:, None]  # [B, T]
        new = torch.ones(2, 2, dtype=torch.bool, device=lengths.device).tril()
        visible = torch.cat(
            [of_title[:, None].expand(-1, 2, -1), new.expand(len(rows), -1, -1)], -1
        )
        states, kept = self.layers(hidden, places, visible, beside)
        return Items(Kept(kept.keys[:, 0], kept.values[:, 0]), states[:, 1])

    def read_users(self, slots: Kept, index: Tensor) -> Tensor:
        """Give what a token reads out after each item of each window, `[B, W, d]` float32.

        `index [B, W]` says which of `slots` stands where, oldest first. What a window's readout
        gives does not depend on the items after it, so padding goes to the right.
        """
        num_windows, length = index.shape
        beside = Beside(
            Kept(slots.keys[index], slots.values[index]),
            torch.arange(length, device=index.device).expand(num_windows, -1),
        )
        hidden = self.heads.CLS.to(self.dtype).expand(num_windows, length, -1)
        seen = torch.ones(length, length, dtype=torch.bool, device=index.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=index.device)
        visible = torch.cat([seen, itself], -1).expand(num_windows, -1, -1)
        states: Tensor = self.layers(hidden, beside.places + 1, visible, beside)[0]
        return states

    def user_vectors(self, slots: Kept, histories: Sequence[Sequence[int]]) -> Tensor:
        """Encode histories, as indices into `slots`, into `[len(histories), 128]`."""
        lengths = torch.tensor([len(history) for history in histories])
        index = nn.utils.rnn.pad_sequence(
            [torch.tensor(history) for history in histories], batch_first=True
        )
        states = self._read_last(slots, index.to(self.item_table.device), lengths)
        vectors: Tensor = self.heads.pred_user(states)
        return vectors

    def _read_last(self, slots: Kept, index: Tensor, lengths: Tensor) -> Tensor:
        """Run one token after the last item of each window, `[B, d]`."""
        num_windows, length = index.shape
        lengths = lengths.to(index.device)
        places = torch.arange(length, device=index.device).expand(num_windows, -1)
        beside = Beside(Kept(slots.keys[index], slots.values[index]), places)
        hidden = self.heads.CLS.to(self.dtype).expand(num_windows, 1, -1)
        own = torch.ones(num_windows, 1, dtype=torch.bool, device=index.device)
        visible = torch.cat([places < lengths[:, None], own], 1)[:, None]  # [B, 1, W + 1]
        states: Tensor = self.layers(hidden, lengths[:, None], visible, beside)[0]
        return states[:, 0]
