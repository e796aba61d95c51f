"""Scorers without a model, the floors that a trained one must clear on the test targets."""

import numpy as np
from numpy.typing import NDArray

from llmsrec.dataset import Dataset

WINDOW = 10


def popularity(dataset: Dataset) -> NDArray[np.float32]:
    """Score each item by its interactions in all training parts."""
    parts = [dataset.training_part(user)[0] for user in range(dataset.num_users)]
    counts = np.bincount(np.concatenate(parts), minlength=dataset.num_items).astype(np.float32)
    return np.broadcast_to(counts, (dataset.num_users, dataset.num_items))  # [U, N]


def co_occurrence(dataset: Dataset) -> NDArray[np.float32]:
    """Score an item by how often it came within 10 places after the user's last 10 items.

    Counted over the test histories of all users. What is n places away counts 1 / n: between two
    counted items, and from a last item to the target. Takes `[U, N]` and `[N, N]` float32.
    """
    num_users, num_items = dataset.num_users, dataset.num_items
    followers = np.zeros((num_items, num_items), np.float32)  # [N, N], earlier item x later item
    recency = np.zeros((num_users, num_items), np.float32)  # [U, N]
    histories = [dataset.test_history(user)[0] for user in range(num_users)]
    for distance in range(1, WINDOW + 1):
        earlier = np.concatenate([rows[:-distance] for rows in histories])
        later = np.concatenate([rows[distance:] for rows in histories])
        np.add.at(followers, (earlier, later), np.float32(1 / distance))
        for user, rows in enumerate(histories):
            if distance <= len(rows):
                recency[user, rows[-distance]] += 1 / distance
    return recency @ followers  # [U, N]
