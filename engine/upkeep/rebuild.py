"""Compiles the plan of a finished bundle anew, for other GPUs or another library version."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.bundle.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    Plan,
    TensorRT,
    describe_file,
    read_manifest,
    verify_files,
    write_manifest,
)
from engine.encoders.tensorrt.compiler import Report, compile_plan, find_targets
from engine.encoders.tensorrt.library import load_library
from engine.errors import PlanError
from llmsrec.files import written_aside


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
    verified = verify_files(bundle, msgspec.structs.replace(manifest, files=others))
    library = load_library(old.library)
    plan = msgspec.structs.replace(
        old,
        library_version=library.version,
        compute_capabilities=find_targets(library, targets or old.compute_capabilities),
    )
    try:
        with (
            written_aside(bundle / MANIFEST_FILE) as new_manifest,
            written_aside(bundle / plan.file) as new_plan,
        ):
            with new_plan.open("wb") as file:
                compile_plan(library, bundle / GRAPH_FILE, plan, file, report)
            verified.require_unchanged()
            files = {**others, plan.file: describe_file(new_plan)}
            kind = msgspec.structs.replace(encoder, plan=plan)
            renewed = msgspec.structs.replace(manifest, encoder=kind, files=files)
            write_manifest(new_manifest, renewed)
    except OSError as error:
        raise PlanError(
            f"cannot write {bundle / plan.file}: {error.strerror or error}; free some space or mend"
            " the folder's permissions, the bundle is as it was"
        ) from error
    if old.file != plan.file:
        (bundle / old.file).unlink(missing_ok=True)
    return plan
