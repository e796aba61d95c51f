"""Holds what was timed to the answers that it should have given."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import Precision
from export.parity import Vectors
from export.recipes import RECIPES
from perf.errors import WrongAnswer

Ranked = tuple[Iterable[Hashable], Sequence[float] | NDArray[np.float32]]
"""Items, by row or by id, and their scores, best first."""


__all__ = ["Ranked", "Vectors", "require_rankings", "require_vectors", "tolerance_of"]


def tolerance_of(precision: Precision) -> float:
    """Give the distance of two vectors of length 1 whose cosine is the bar of a precision."""
    return float((2 - 2 * RECIPES[precision].bars.min_cosine) ** 0.5)


def require_vectors(what: str, found: Vectors, expected: Vectors, tolerance: float) -> None:
    """Refuse vectors `[B, D]` that are further from the expected ones than a share of their length.

    Raises:
        WrongAnswer: one of them is, or is not finite, or there are more or fewer.
    """
    if found.shape != expected.shape:
        raise WrongAnswer(
            f"{what} gave vectors {found.shape}, not {expected.shape}; no time counts"
        )
    distances = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)  # [B]
    furthest = distances.max()
    if not furthest <= tolerance:
        raise WrongAnswer(
            f"{what} gave other vectors while it was timed: {furthest:.2g} of their length away,"
            f" {tolerance:.2g} are allowed; no time counts"
        )


def require_rankings(
    what: str, found: Sequence[Ranked], expected: Sequence[Ranked], tolerance: float
) -> None:
    """Refuse rankings whose items, scores or order differ by more than a share of the best score.

    Items that score as much as the last one, within the tolerance, may stand for each other.

    Raises:
        WrongAnswer: naming the first of them.
    """
    if len(found) != len(expected):
        raise WrongAnswer(f"{what} gave {len(found)} rankings, not {len(expected)}; no time counts")
    for number, (one, right) in enumerate(zip(found, expected, strict=True)):
        if problem := _difference(one, right, tolerance):
            raise WrongAnswer(
                f"{what} ranked otherwise while it was timed, in ranking {number}: {problem}; no"
                " time counts"
            )


def _difference(found: Ranked, expected: Ranked, tolerance: float) -> str:
    items, scores = list(found[0]), np.asarray(found[1], np.float64)
    right_scores = np.asarray(expected[1], np.float64)
    if len(items) != len(right_scores) or len(set(items)) != len(items):
        return f"{len(set(items))} different items of {len(right_scores)}"
    if not items:
        return ""
    allowed = tolerance * np.abs(right_scores).max()
    if not (np.diff(scores) <= 0).all():
        return "its scores are not in order"
    score_of = dict(zip(expected[0], right_scores.tolist(), strict=True))
    for item, score in zip(items, scores.tolist(), strict=True):
        right = score_of.get(item, right_scores[-1])
        if not abs(score - right) <= allowed:
            return f"item {item} has {score:.6g} where {right:.6g} is right"
    return ""
