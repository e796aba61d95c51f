"""LLM-SRec: a frozen decoder LLM that reads an interaction sequence, and the heads around it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmsrec import prompt
from llmsrec.tokens import PromptArrays

HEAD_WIDTH = 2048
VECTOR_DIM = 128
COLLABORATIVE_DIM = 64


def head(in_dim: int, width: int, out_dim: int, activation: nn.Module) -> nn.Sequential:
    """Build Linear, LayerNorm, activation, Linear, with the reference's Xavier-normal weights."""
    layers = nn.Sequential(
        nn.Linear(in_dim, width), nn.LayerNorm(width), activation, nn.Linear(width, out_dim)
    )
    for layer in (layers[0], layers[3]):
        nn.init.xavier_normal_(layer.get_parameter("weight"))
    return layers


class Heads(nn.Module):
    """Everything of LLM-SRec that is trained, without the LLM."""

    def __init__(self, llm_dim: int) -> None:
        super().__init__()
        self.item_emb_proj = head(COLLABORATIVE_DIM, llm_dim, llm_dim, nn.LeakyReLU())
        self.pred_user = head(llm_dim, HEAD_WIDTH, VECTOR_DIM, nn.LeakyReLU())
        self.pred_item = head(llm_dim, HEAD_WIDTH, VECTOR_DIM, nn.LeakyReLU())
        self.CLS = nn.Parameter(torch.zeros(llm_dim))
        self.CLS_item = nn.Parameter(torch.zeros(llm_dim))

    def draw_readouts(self, token_embeddings: Tensor) -> None:
        """Draw both readout vectors like one more token of the LLM."""
        weights = token_embeddings.float()
        for readout in (self.CLS, self.CLS_item):
            nn.init.normal_(readout, weights.mean().item(), weights.std().item())


class LLMSRec(nn.Module):
    """The LLM, the heads and the collaborative item table `[N, 64]`."""

    item_table: Tensor

    def __init__(self, llm: PreTrainedModel, heads: Heads, item_table: Tensor) -> None:
        super().__init__()
        self.llm = llm.requires_grad_(requires_grad=False)
        self.heads = heads
        self.register_buffer("item_table", item_table)

    def embed(self, input_ids: Tensor, slot_ids: Tensor, item_table: Tensor) -> Tensor:
        """Give the decoder's input `[B, T, d]`: token embeddings with the slots filled in."""
        heads = self.heads
        tokens = self.llm.get_input_embeddings()(input_ids)  # [B, T, d]
        rows = (slot_ids - 1).clamp(min=0)
        items = heads.item_emb_proj(item_table[rows]).to(tokens.dtype)  # [B, T, d]
        slots = slot_ids.unsqueeze(-1)
        embedded = torch.where(slots > prompt.TEXT_SLOT, items, tokens)
        embedded = torch.where(
            slots == prompt.USER_READOUT_SLOT, heads.CLS.to(tokens.dtype), embedded
        )
        return torch.where(
            slots == prompt.ITEM_READOUT_SLOT, heads.CLS_item.to(tokens.dtype), embedded
        )

    def readout(self, input_ids: Tensor, slot_ids: Tensor, position: Tensor) -> Tensor:
        """Give the last hidden state `[B, d]` float32 at each prompt's readout."""
        embedded = self.embed(input_ids, slot_ids, self.item_table)
        hidden = self.llm(inputs_embeds=embedded, use_cache=False).last_hidden_state  # [B, T, d]
        rows: Tensor = hidden[torch.arange(len(position)), position]
        return rows.float()

    def user_vectors(self, prompts: Sequence[PromptArrays]) -> Tensor:
        """Encode users' prompts into `[B, 128]` float32."""
        vectors: Tensor = self.heads.pred_user(self.readout(*self.collate(prompts)))
        return vectors

    def item_vectors(self, prompts: Sequence[PromptArrays]) -> Tensor:
        """Encode items' prompts into `[B, 128]` float32."""
        vectors: Tensor = self.heads.pred_item(self.readout(*self.collate(prompts)))
        return vectors

    def collate(self, prompts: Sequence[PromptArrays]) -> tuple[Tensor, Tensor, Tensor]:
        """Pad prompts on the right, after the readout, where causal attention never looks."""
        lengths = [len(token_ids) for token_ids, _ in prompts]
        device = self.item_table.device
        return (
            _pad([token_ids for token_ids, _ in prompts], max(lengths)).to(device),  # [B, T]
            _pad([slot_ids for _, slot_ids in prompts], max(lengths)).to(device),  # [B, T]
            torch.tensor(lengths, device=device) - 1,  # [B]
        )


def _pad(rows: Sequence[NDArray[np.int32]], length: int) -> Tensor:
    padded = np.zeros((len(rows), length), np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)
