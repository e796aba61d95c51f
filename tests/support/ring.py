"""A dataset in which the next item can be learnt: each user walks along a ring of items."""

import numpy as np

from llmsrec.catalogue import CatalogueItem
from llmsrec.dataset import Dataset, build_dataset

NUM_ITEMS = 30
_MS_PER_DAY = 86_400_000


def ring_dataset(num_users: int, max_length: int = 11) -> Dataset:
    """Draw sequences of 4 to `max_length` interactions, a day apart."""
    rng = np.random.default_rng(1)
    interactions = {}
    for user in range(num_users):
        start, length = rng.integers(NUM_ITEMS), rng.integers(4, max_length + 1)
        interactions[str(user)] = [
            (int(start + place) % NUM_ITEMS, int(place) * _MS_PER_DAY) for place in range(length)
        ]
    catalogue = [CatalogueItem(str(row), f"Part {row}") for row in range(NUM_ITEMS)]
    return build_dataset("ring", catalogue, interactions)
