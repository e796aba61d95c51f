"""Verifies a bundle: its files, and that it still gives the vectors that it was built with."""

from pathlib import Path

import msgspec
import numpy as np

from engine.errors import BundleError
from engine.manifest import read_manifest
from engine.recommender import Recommender
from engine.request import Interaction

PROBES_FILE = "probes.json"
MIN_COSINE = 0.9999
"""Between the vectors of the machine that built a bundle and those of another one."""


class Probe(msgspec.Struct, frozen=True):
    """A history and the user vector `[D]` that the new bundle gave for it."""

    history: list[Interaction]
    user_vector: list[float]


def check_bundle(path: Path) -> list[str]:
    """Open a bundle, encode its probes and describe what was found, a line each.

    Raises:
        BundleError: it is damaged, cannot be served here, or gives other vectors.
    """
    manifest = read_manifest(path)
    recommender = Recommender.open(path)
    probes = msgspec.json.decode((path / PROBES_FILE).read_bytes(), type=list[Probe])
    vectors = recommender.encode_users([probe.history for probe in probes])  # [P, D]
    recommender.close()
    expected = np.array([probe.user_vector for probe in probes])  # [P, D]
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float((np.einsum("pd,pd->p", vectors, expected) / norms).min())
    if not cosine >= MIN_COSINE:
        raise BundleError(
            f"{path}: the user vectors of its probes differ from those of the build (cosine"
            f" {cosine:.6f} < {MIN_COSINE}); build the bundle on this kind of machine"
        )
    num_bytes = sum(entry.num_bytes for entry in manifest.files.values())
    parity = manifest.parity
    return [
        f"model      {manifest.model_version}, {manifest.precision} on {manifest.backend}",
        f"catalogue  {manifest.catalogue_version}, {manifest.num_items} items",
        f"files      {len(manifest.files)} files, {num_bytes / 1e6:.0f} MB, SHA-256 as built",
        f"parity     cosine {parity.cosine_min:.7f}, overlap@10 {parity.overlap_at_10:.4f}"
        f" against PyTorch on {parity.num_histories} histories",
        f"probes     {len(probes)} user vectors, cosine {cosine:.7f} against the build",
    ]
