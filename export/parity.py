"""Compares the engine's vectors and rankings with those of PyTorch in fp32."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.manifest import ParityReport, ParityRuntime, Precision
from export.errors import BuildError

K = 10
_TIE_TOLERANCE = 1e-5
"""Scores closer than this share of the largest one are equal in fp32."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Bars:
    min_cosine: float
    min_overlap: float


@np.errstate(divide="ignore", invalid="ignore")
def compare(
    users: Vectors,
    items: Vectors,
    expected_users: Vectors,
    expected_items: Vectors,
    runtime: ParityRuntime = "onnxruntime",
) -> ParityReport:
    """Compare `users [U, D]` and `items [N, D]`, which `runtime` gave, with PyTorch's.

    Rankings are those of `users` over PyTorch's item vectors, which are what a bundle holds. A
    vector that is not finite or has no length gives NaN, which no bar lets pass.
    """
    cosines = _cosines(users, expected_users)  # [U]
    norms = np.linalg.norm(users, axis=1) / np.linalg.norm(expected_users, axis=1)  # [U]
    scores, expected_scores = users @ expected_items.T, expected_users @ expected_items.T  # [U, N]
    overlaps, top_1 = _overlaps(scores, expected_scores, K), _overlaps(scores, expected_scores, 1)
    return ParityReport(
        runtime=runtime,
        num_histories=len(users),
        cosine_min=float(cosines.min()),
        cosine_p1=float(np.percentile(cosines, 1)),
        cosine_mean=float(cosines.mean()),
        item_cosine_min=float(_cosines(items, expected_items).min()),
        norm_ratio_min=float(norms.min()),
        norm_ratio_max=float(norms.max()),
        overlap_at_10=float(overlaps.mean()),
        top_1=float(top_1.mean()),
    )


def require(report: ParityReport, bars: Bars, precision: Precision) -> None:
    """Refuse a bundle below the bars of its precision.

    Raises:
        BuildError: naming each figure that fell short.
    """
    checks = (
        ("cosine of user vectors", report.cosine_min, bars.min_cosine),
        ("cosine of item vectors", report.item_cosine_min, bars.min_cosine),
        (f"overlap@{K}", report.overlap_at_10, bars.min_overlap),
    )
    short = [f"{name} {value:.7f} < {bar}" for name, value, bar in checks if not value >= bar]
    if short:
        raise BuildError(
            f"the {precision} engine differs too much from PyTorch: {'; '.join(short)}; no bundle"
            " was written"
        )


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    wide, wide_second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(wide_second, axis=1)
    cosines: NDArray[np.float64] = np.einsum("nd,nd->n", wide, wide_second) / norms
    return cosines


def _overlaps(scores: Vectors, expected: Vectors, k: int) -> NDArray[np.float64]:
    """Give the share of each row's first k whose expected score belongs to the first k."""
    k = min(k, scores.shape[1])
    chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]  # [U, k]
    threshold = np.partition(expected, -k, axis=1)[:, -k, None]  # [U, 1]
    tolerance = _TIE_TOLERANCE * np.abs(expected).max(axis=1, keepdims=True)  # [U, 1]
    belongs = np.take_along_axis(expected, chosen, axis=1) >= threshold - tolerance
    shares: NDArray[np.float64] = belongs.mean(axis=1)
    return shares
