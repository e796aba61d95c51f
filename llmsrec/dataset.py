"""A prepared dataset: the catalogue, the users' interaction sequences and their saved negatives.

The last interaction of a sequence is its test target, the one before its validation target; the
rest trains. Split and negatives are fixed when a dataset is built, so that models compare.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmsrec import dataset_files
from llmsrec.catalogue import CatalogueItem
from llmsrec.errors import DataError
from llmsrec.negatives import draw_absent_rows
from llmsrec.prompt import MAX_TIMESTAMP_MS

NUM_NEGATIVES = 99
MIN_SEQUENCE_LENGTH = 3
"""One interaction each to train, validate and test."""

InteractionSequence = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Item rows and timestamps in milliseconds, `[n]` each, oldest first."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of users and items count from 0; the arrays are not to be written to."""

    name: str
    user_ids: Sequence[str]
    catalogue: Sequence[CatalogueItem]
    offsets: NDArray[np.int64]  # [U + 1], where each user's interactions begin
    item_rows: NDArray[np.int32]  # [M]
    timestamps_ms: NDArray[np.int64]  # [M]
    validation_negatives: NDArray[np.int32]  # [U, NUM_NEGATIVES]
    test_negatives: NDArray[np.int32]  # [U, NUM_NEGATIVES]

    @staticmethod
    def load(path: Path) -> "Dataset":
        """Read a prepared dataset and check that it is whole.

        Raises:
            DataError: a file is missing, damaged or of another schema version.
        """
        name, user_ids, catalogue, arrays = dataset_files.read(path)
        return Dataset(name, user_ids, catalogue, **arrays)

    def save(self, path: Path) -> None:
        """Write the directory `path`, replacing an older dataset there.

        Raises:
            DataError: something other than a dataset stands there.
        """
        dataset_files.write(path, self.name, self.user_ids, self.catalogue, self._arrays())

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.catalogue)

    @property
    def titles(self) -> list[str]:
        return [item.title for item in self.catalogue]

    @property
    def validation_targets(self) -> NDArray[np.int32]:
        return self.item_rows[self.offsets[1:] - 2]  # [U]

    @property
    def test_targets(self) -> NDArray[np.int32]:
        return self.item_rows[self.offsets[1:] - 1]  # [U]

    def sequence(self, user: int) -> InteractionSequence:
        return self._slice(user, num_held_out=0)

    def training_part(self, user: int) -> InteractionSequence:
        return self._slice(user, num_held_out=2)

    def validation_history(self, user: int) -> InteractionSequence:
        """Give what precedes the validation target: the training part."""
        return self._slice(user, num_held_out=2)

    def test_history(self, user: int) -> InteractionSequence:
        """Give what precedes the test target: the training part and the validation target."""
        return self._slice(user, num_held_out=1)

    def validation_candidates(self) -> NDArray[np.int32]:
        """Give each user's validation target followed by its negatives."""
        return np.column_stack([self.validation_targets, self.validation_negatives])  # [U, 1 + 99]

    def test_candidates(self) -> NDArray[np.int32]:
        """Give each user's test target followed by its negatives."""
        return np.column_stack([self.test_targets, self.test_negatives])  # [U, 1 + 99]

    def digest(self) -> str:
        """Give the SHA-256 of all the content."""
        content = hashlib.sha256(msgspec.json.encode([self.name, self.user_ids, self.catalogue]))
        for array in self._arrays().values():
            content.update(array.tobytes())
        return content.hexdigest()

    def _slice(self, user: int, num_held_out: int) -> InteractionSequence:
        kept = slice(self.offsets[user], self.offsets[user + 1] - num_held_out)
        return self.item_rows[kept], self.timestamps_ms[kept]

    def _arrays(self) -> dataset_files.Arrays:
        return {name: getattr(self, name) for name in dataset_files.ARRAY_NAMES}


def build_dataset(
    name: str,
    catalogue: Sequence[CatalogueItem],
    interactions_of_user: Mapping[str, Sequence[tuple[int, int]]],
    seed: int = 0,
) -> Dataset:
    """Order each user's (item row, timestamp in ms) pairs, oldest first, and draw the negatives.

    Interactions of the same millisecond keep the order they are given in.

    Raises:
        DataError: a user has too few interactions or has seen the whole catalogue, or a timestamp
            is one that no prompt can hold.
    """
    if not interactions_of_user:
        raise DataError(f"{name}: no user has enough interactions; give more data")
    rng = np.random.default_rng(seed)
    sequences, negatives = [], []
    for user_id, interactions in interactions_of_user.items():
        sequence = np.array(_in_order(name, user_id, interactions), np.int64)  # [n, 2]
        sequences.append(sequence)
        try:
            drawn = draw_absent_rows(rng, sequence[:, 0], len(catalogue), (2, NUM_NEGATIVES))
        except ValueError as error:
            raise DataError(f"{name}: user {user_id!r}: {error}; drop this user") from error
        negatives.append(drawn)
    stacked = np.concatenate(sequences)  # [M, 2]
    drawn_for_all = np.stack(negatives)  # [U, 2, NUM_NEGATIVES]
    return Dataset(
        name=name,
        user_ids=list(interactions_of_user),
        catalogue=catalogue,
        offsets=np.cumsum([0, *map(len, sequences)], dtype=np.int64),
        item_rows=stacked[:, 0].astype(np.int32),
        timestamps_ms=np.ascontiguousarray(stacked[:, 1]),
        validation_negatives=np.ascontiguousarray(drawn_for_all[:, 0]),
        test_negatives=np.ascontiguousarray(drawn_for_all[:, 1]),
    )


def _in_order(
    name: str, user_id: str, interactions: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    if len(interactions) < MIN_SEQUENCE_LENGTH:
        raise DataError(
            f"{name}: user {user_id!r} has {len(interactions)} interactions, but one each is"
            " needed to train, validate and test; drop this user"
        )
    for _, timestamp_ms in interactions:
        if not 0 <= timestamp_ms <= MAX_TIMESTAMP_MS:
            raise DataError(
                f"{name}: user {user_id!r} has the timestamp {timestamp_ms}; expected"
                f" milliseconds since 1970 in 0..{MAX_TIMESTAMP_MS}"
            )
    return sorted(interactions, key=lambda interaction: interaction[1])
