"""SASRec, the sequential recommender whose item table LLM-SRec projects into its prompts.

Source: the published LLM-SRec code, whose checkpoints fit these parameter names. It differs from
the paper: queries are normalised and keys are not, the residual starts from the normalised query,
and padding is attended to, so that a sequence must be padded to exactly `max_length`.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MAX_LENGTH = 128
_EPSILON = 1e-8
_PADDING = 0


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dim: int = 64
    num_blocks: int = 2
    num_heads: int = 1
    max_length: int = MAX_LENGTH


DEFAULT_SHAPE = Shape()


class FeedForward(nn.Module):
    """Two linear maps per position with a ReLU between, plus the input."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dim, dim, kernel_size=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        hidden = self.dropout(self.conv1(states.transpose(1, 2))).relu()  # [B, D, T]
        update: Tensor = self.dropout(self.conv2(hidden)).transpose(1, 2)  # [B, T, D]
        return states + update


class SASRec(nn.Module):
    """Reads `[B, max_length] int64` of item rows + 1, left-padded with 0."""

    def __init__(self, num_items: int, shape: Shape = DEFAULT_SHAPE, dropout: float = 0.1) -> None:
        super().__init__()
        dim = shape.dim
        self.item_emb = nn.Embedding(num_items + 1, dim, padding_idx=_PADDING)
        self.pos_emb = nn.Embedding(shape.max_length, dim)
        self.emb_dropout = nn.Dropout(dropout)
        blocks = range(shape.num_blocks)
        self.attention_layernorms = nn.ModuleList(nn.LayerNorm(dim, _EPSILON) for _ in blocks)
        self.attention_layers = nn.ModuleList(
            nn.MultiheadAttention(dim, shape.num_heads, dropout) for _ in blocks
        )
        self.forward_layernorms = nn.ModuleList(nn.LayerNorm(dim, _EPSILON) for _ in blocks)
        self.forward_layers = nn.ModuleList(FeedForward(dim, dropout) for _ in blocks)
        self.last_layernorm = nn.LayerNorm(dim, _EPSILON)

    def encode(self, sequences: Tensor) -> Tensor:
        """Give the state after each position; those of padding mean nothing."""
        length, dim = self.pos_emb.weight.shape
        is_item = (sequences != _PADDING).unsqueeze(-1)  # [B, T, 1]
        is_future = torch.ones(length, length, dtype=torch.bool, device=sequences.device).triu(1)
        states = self.item_emb(sequences) * dim**0.5 + self.pos_emb.weight
        states = self.emb_dropout(states) * is_item  # [B, T, D]
        for query_norm, attention, forward_norm, feed_forward in zip(
            self.attention_layernorms,
            self.attention_layers,
            self.forward_layernorms,
            self.forward_layers,
            strict=True,
        ):
            keys = states.transpose(0, 1)  # [T, B, D]
            queries = query_norm(keys)
            attended, _ = attention(queries, keys, keys, attn_mask=is_future, need_weights=False)
            states = (queries + attended).transpose(0, 1)
            states = feed_forward(forward_norm(states)) * is_item
        encoded: Tensor = self.last_layernorm(states)  # [B, T, D]
        return encoded

    def user_states(self, sequences: Tensor) -> Tensor:
        """Give the state after the newest interaction; its product with an item scores it."""
        return self.encode(sequences)[:, -1]  # [B, D]


def pad_sequences(sequences: Sequence[NDArray[np.int32]], max_length: int = MAX_LENGTH) -> Tensor:
    """Give the newest `max_length` rows of each sequence as rows + 1, left-padded with 0."""
    padded = np.full((len(sequences), max_length), _PADDING, np.int64)
    for line, rows in zip(padded, sequences, strict=True):
        newest = rows[-max_length:]
        line[max_length - len(newest) :] = newest + 1
    return torch.from_numpy(padded)  # [B, max_length] int64
