"""Compiles the plan of a finished bundle anew, for other GPUs or another library version."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.backends.tensorrt.compiler import Report, compile_plan, find_targets
from engine.backends.tensorrt.library import load_library
from engine.errors import PlanError
from engine.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    Plan,
    describe_file,
    read_manifest,
    seal,
    verify_files,
)


def rebuild_plan(bundle: Path, targets: Sequence[str], report: Report) -> Plan:
    """Put a new plan into a bundle; whenever it is killed, the old one or the new one is whole.

    Without targets they stay as they are.

    Raises:
        BundleError: the bundle is damaged.
        PlanError: it needs no plan, the library refuses, or the plan cannot be written.
    """
    manifest = read_manifest(bundle)
    old = manifest.plan
    if old is None:
        raise PlanError(f"{bundle} runs on {manifest.backend}, which needs no plan")
    others = {name: entry for name, entry in manifest.files.items() if name != old.file}
    verify_files(bundle, msgspec.structs.replace(manifest, files=others))
    library = load_library(old.library)
    plan = msgspec.structs.replace(
        old,
        library_version=library.version,
        compute_capabilities=find_targets(library, targets or old.compute_capabilities),
    )
    compiled = compile_plan(library, bundle / GRAPH_FILE, plan, report)
    _replace(bundle / plan.file, compiled)
    files = {**others, plan.file: describe_file(bundle / plan.file)}
    renewed = seal(msgspec.structs.replace(manifest, plan=plan, files=files))
    content = msgspec.json.format(msgspec.json.encode(renewed), indent=2) + b"\n"
    _replace(bundle / MANIFEST_FILE, content)
    if old.file != plan.file:
        (bundle / old.file).unlink(missing_ok=True)
    return plan


def _replace(path: Path, content: bytes | memoryview) -> None:
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.write(content)
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
