"""Encodes catalogues and histories over segments, items once and users in batches."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from llmsrec.model import VECTOR_DIM
from llmsrec.segments.layers import Kept
from llmsrec.segments.model import SegmentsModel
from llmsrec.segments.titles import Titles

_ITEMS_AT_ONCE = 512
_USERS_AT_ONCE = 256


class SegmentsEncoder:
    """Gives vectors of a model whose heads stay as they are meanwhile."""

    def __init__(self, model: SegmentsModel, titles: Titles, window: int) -> None:
        self._model = model
        self._titles = titles
        self._window = window

    def encode(
        self, num_items: int, histories: Sequence[Sequence[Sequence[int]]], bars: Progress
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Give item vectors `[N, 128]`, and user vectors `[U, 128]` of each list of histories."""
        with torch.inference_mode():
            slots, items = self._encode_items(num_items, bars)
            return items, [self._encode_users(slots, each, bars) for each in histories]

    def _encode_items(self, num_items: int, bars: Progress) -> tuple[Kept, NDArray[np.float32]]:
        keys, values, vectors = [], [], []
        task = bars.add_task("items", total=num_items)
        for start in range(0, num_items, _ITEMS_AT_ONCE):
            rows = np.arange(start, min(start + _ITEMS_AT_ONCE, num_items))
            read = self._model.read_items(rows, self._titles)
            keys.append(read.slots.keys)
            values.append(read.slots.values)
            vectors.append(self._model.heads.pred_item(read.states).cpu().numpy())
            bars.advance(task, len(rows))
        bars.remove_task(task)
        return Kept(torch.cat(keys), torch.cat(values)), np.concatenate(vectors)

    def _encode_users(
        self, slots: Kept, histories: Sequence[Sequence[int]], bars: Progress
    ) -> NDArray[np.float32]:
        vectors = np.empty((len(histories), VECTOR_DIM), np.float32)
        order = sorted(range(len(histories)), key=lambda user: len(histories[user]))
        task = bars.add_task("users", total=len(histories))
        for start in range(0, len(order), _USERS_AT_ONCE):
            users = order[start : start + _USERS_AT_ONCE]
            windows = [histories[user][-self._window :] for user in users]
            vectors[users] = self._model.user_vectors(slots, windows).cpu().numpy()
            bars.advance(task, len(users))
        bars.remove_task(task)
        return vectors
