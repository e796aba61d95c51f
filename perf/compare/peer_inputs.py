"""What every peer is given: the same prompts, the LLM in its usual formats, the trained parts.

prompts.json          token ids and slot ids of each prompt
parts.safetensors     token embeddings, projected items, readout, user head
llm/                  the decoder and its tokenizer as `transformers` saves them, fp32

NumPy, msgspec and safetensors read all of it, so that a peer's environment needs no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from llmsrec.prompt import TEXT_SLOT, USER_READOUT_SLOT

PROMPTS_FILE = "prompts.json"
PARTS_FILE = "parts.safetensors"
LLM_FOLDER = "llm"
HEAD_LAYERS = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
"""Layers of the user head: Linear, LayerNorm, LeakyReLU, Linear."""

_NORM_EPSILON = 1e-5
_LEAK = 0.01

Vectors = NDArray[np.float32]
PromptArrays = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Token ids `[T]` and slot ids `[T]`, as `llmsrec.prompt` defines them."""


@dataclass(frozen=True)
class PeerInputs:
    folder: Path

    @property
    def llm(self) -> Path:
        return self.folder / LLM_FOLDER

    @cached_property
    def prompts(self) -> list[PromptArrays]:
        content = (self.folder / PROMPTS_FILE).read_bytes()
        rows = msgspec.json.decode(content, type=list[tuple[list[int], list[int]]])
        return [(np.array(tokens, np.int32), np.array(slots, np.int32)) for tokens, slots in rows]

    @cached_property
    def _parts(self) -> dict[str, Vectors]:
        parts: dict[str, Vectors] = load_file(self.folder / PARTS_FILE)
        return parts

    def embed(self, prompt: PromptArrays) -> Vectors:
        """Give a decoder's input `[T, d]`: token embeddings with the slots filled in."""
        token_ids, slot_ids = prompt
        embedded = self._parts["tokens"][token_ids]  # [T, d]
        is_item = slot_ids > TEXT_SLOT
        embedded[is_item] = self._parts["items"][slot_ids[is_item] - 1]
        embedded[slot_ids == USER_READOUT_SLOT] = self._parts["readout"]
        return embedded

    def embed_padded(self, prompts: Sequence[PromptArrays]) -> tuple[Vectors, NDArray[np.int64]]:
        """Give `[B, T, d]`, padded on the right after the readout, and the readouts' positions."""
        lengths = np.array([len(token_ids) for token_ids, _ in prompts], np.int64)  # [B]
        width = self._parts["tokens"].shape[1]
        padded = np.zeros((len(prompts), lengths.max(), width), np.float32)  # [B, T, d]
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt[0])] = self.embed(prompt)
        return padded, lengths - 1

    def user_vectors(self, readouts: Vectors) -> Vectors:
        """Apply the user head to last hidden states `[B, d]`, after the final norm."""
        first, bias, scale, shift, last, last_bias = (self._parts[name] for name in HEAD_LAYERS)
        hidden = readouts @ first.T + bias  # [B, 2048]
        centred = hidden - hidden.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + _NORM_EPSILON)
        normed = centred / deviation * scale + shift
        vectors: Vectors = np.where(normed > 0, normed, _LEAK * normed) @ last.T + last_bias
        return vectors  # [B, D]
