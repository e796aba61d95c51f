"""Verifies a bundle: its files, and that it still gives the vectors that it was built with."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from engine.bundle.manifest import read_manifest
from engine.errors import BundleError, InvalidRequest
from engine.recommender import Recommender
from engine.request import Interaction

PROBES_FILE = "probes.json"


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
    with closing(Recommender.open(path)) as recommender:
        probes = _read_probes(path / PROBES_FILE, manifest.vector_dim)
        cosine = _lowest_cosine(recommender, probes, path)
    bar = manifest.min_probe_cosine
    if not cosine >= bar:
        raise BundleError(
            f"{path}: the user vectors of its probes differ from those of the build (cosine"
            f" {cosine:.6f} < {bar}); build the bundle on this kind of machine"
        )
    num_bytes = sum(entry.num_bytes for entry in manifest.files.values())
    encoder, parity = manifest.encoder, manifest.parity
    packages = ", ".join(f"{name} {version}" for name, version in manifest.built_with.items())
    return [
        f"model      {manifest.model_version}, {encoder.precision} on {encoder.backend}",
        f"catalogue  {manifest.catalogue_version}, {manifest.num_items} items",
        f"built      by llmsrec-engine {manifest.release}, with {packages}",
        f"files      {len(manifest.files)} files, {num_bytes / 1e6:.0f} MB, SHA-256 as built",
        f"parity     cosine {parity.cosine_min:.7f}, overlap@10 {parity.overlap_at_10:.4f}"
        f" against PyTorch on {parity.num_histories} histories",
        f"probes     {len(probes)} user vectors, cosine {cosine:.7f} against the build",
    ]


def _read_probes(path: Path, vector_dim: int) -> list[Probe]:
    try:
        probes = msgspec.json.decode(path.read_bytes(), type=list[Probe])
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; build the bundle again") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {error}; build the bundle again") from error
    if not probes or any(len(probe.user_vector) != vector_dim for probe in probes):
        raise BundleError(
            f"{path}: expected user vectors of {vector_dim} values; build the bundle again"
        )
    return probes


def _lowest_cosine(recommender: Recommender, probes: Sequence[Probe], path: Path) -> float:
    try:
        vectors = recommender.encode_users([probe.history for probe in probes])  # [P, D]
    except InvalidRequest as error:
        raise BundleError(
            f"{path / PROBES_FILE} does not fit its bundle ({error}); build the bundle again"
        ) from error
    expected = np.array([probe.user_vector for probe in probes])  # [P, D]
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    with np.errstate(invalid="ignore"):
        return float((np.einsum("pd,pd->p", vectors, expected) / norms).min())
