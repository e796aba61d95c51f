"""Compiles the plan of a finished bundle anew, for other GPUs or another library version."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from engine.bundle.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    Plan,
    TensorRT,
    describe_file,
    read_manifest,
    seal,
    verify_files,
)
from engine.encoders.tensorrt.compiler import Report, compile_plan, find_targets
from engine.encoders.tensorrt.library import load_library
from engine.errors import PlanError


def rebuild_plan(bundle: Path, targets: Sequence[str], report: Report) -> Plan:
    """Put a new plan into a bundle, where it and then the manifest take the old ones' places.

    Without targets they stay as they are. A kill leaves the old plan or the new one whole, but for
    a plan of the old one's name: between the two, the bundle is refused and can be rebuilt again.

    Raises:
        BundleError: the bundle is damaged.
        PlanError: it needs no plan, the library refuses, or the plan cannot be written.
    """
    manifest = read_manifest(bundle)
    encoder = manifest.encoder
    if not isinstance(encoder, TensorRT):
        raise PlanError(f"{bundle} runs on {encoder.backend}, which needs no plan")
    old = encoder.plan
    others = {name: entry for name, entry in manifest.files.items() if name != old.file}
    verify_files(bundle, msgspec.structs.replace(manifest, files=others))
    library = load_library(old.library)
    plan = msgspec.structs.replace(
        old,
        library_version=library.version,
        compute_capabilities=find_targets(library, targets or old.compute_capabilities),
    )
    with _replacing(bundle / plan.file) as file:
        compile_plan(library, bundle / GRAPH_FILE, plan, file, report)
        file.flush()
        files = {**others, plan.file: describe_file(Path(file.name))}
        kind = msgspec.structs.replace(encoder, plan=plan)
        renewed = seal(msgspec.structs.replace(manifest, encoder=kind, files=files))
        content = msgspec.json.format(msgspec.json.encode(renewed), indent=2) + b"\n"
    with _replacing(bundle / MANIFEST_FILE) as file:
        file.write(content)
    if old.file != plan.file:
        (bundle / old.file).unlink(missing_ok=True)
    return plan


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write, which takes the place of `path` when the block succeeds."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise PlanError(
            f"cannot write {path}: {error.strerror}; free some space or mend the folder's"
            " permissions, the bundle is as it was"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
