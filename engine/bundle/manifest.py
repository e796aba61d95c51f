"""What a bundle says about itself, and the check that its files are the ones it names."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engine.bundle.held import FileState, VerifiedFiles, read_state
from engine.errors import BundleError
from engine.sizes import Size
from llmsrec.files import sha256_of_file
from llmsrec.prompt import TEMPLATE_VERSION

SCHEMA_VERSION = 3
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "encoder.onnx"
WEIGHTS_FILE = "encoder.onnx.data"
MAX_MANIFEST_BYTES = 1 << 20

Backend = Literal["onnxruntime", "onnxruntime-cuda", "tensorrt"]
Precision = Literal["fp32", "int16", "fp16", "bf16", "fp8"]
ParityRuntime = Literal["onnxruntime", "pytorch"]
LibraryName = Literal["tensorrt", "tensorrt_rtx"]
FileName = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*\Z")]
"""A file beside the manifest, never one elsewhere."""

_REMEDY = "copy or build the bundle again"
_DAMAGED = (msgspec.DecodeError, UnicodeDecodeError)


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    num_bytes: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A compiled encoder: from which graph, by what, for which GPUs and sizes."""

    graph_sha256: str
    library: LibraryName
    library_version: str
    compute_capabilities: list[str]
    """Such as 8.9; without one, the GPUs that the library compiles for of itself."""
    sizes: Annotated[list[Size], msgspec.Meta(min_length=1)]
    """The largest sizes, an optimization profile each."""

    @property
    def file(self) -> str:
        key = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return f"encoder-{key[:12]}.plan"


class EncoderKind(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="backend"
):
    """What runs a bundle's encoder; each kind lists its precisions, the default first."""

    @property
    def backend(self) -> str:
        return str(self.__struct_config__.tag)


class OnnxRuntimeCpu(EncoderKind, frozen=True, tag="onnxruntime"):
    precision: Literal["fp32", "int16"]


class OnnxRuntimeCuda(EncoderKind, frozen=True, tag="onnxruntime-cuda"):
    precision: Literal["fp16", "bf16", "fp32"]
    sizes: Annotated[list[Size], msgspec.Meta(min_length=1)]
    """Every size that is captured as a CUDA graph."""


class TensorRT(EncoderKind, frozen=True, tag="tensorrt"):
    precision: Literal["fp16", "bf16", "fp8"]
    plan: Plan


ENCODER_KINDS: dict[Backend, type[OnnxRuntimeCpu | OnnxRuntimeCuda | TensorRT]] = {
    "onnxruntime": OnnxRuntimeCpu,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "tensorrt": TensorRT,
}


class ParityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The engine's vectors and rankings against PyTorch fp32 on real histories."""

    runtime: ParityRuntime
    """What ran the encoder graph when it was compared."""
    num_histories: int
    cosine_min: float
    cosine_p1: float
    cosine_mean: float
    item_cosine_min: float
    norm_ratio_min: float
    norm_ratio_max: float
    overlap_at_10: float
    """Mean share of PyTorch's first ten, items of equal score being interchangeable."""
    top_1: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    release: str
    """Version of llmsrec-engine that built the bundle."""
    built_with: dict[str, str]
    """Versions of the packages that took part, by name."""
    model_version: str
    catalogue_version: str
    template_version: int = TEMPLATE_VERSION
    encoder: OnnxRuntimeCpu | OnnxRuntimeCuda | TensorRT
    num_items: int
    vector_dim: int
    parity: ParityReport
    min_probe_cosine: float
    """The least cosine between the probes' vectors and those of another machine."""
    files: dict[FileName, FileEntry]
    digest: str = ""
    """SHA-256 of the manifest without its digest, see `seal`."""


class _Header(msgspec.Struct, frozen=True):
    schema_version: int
    release: str = "an older release"


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest; its files are not looked at.

    Raises:
        BundleError: there is none, it is damaged, or of a release that this one cannot serve.
    """
    path = bundle / MANIFEST_FILE
    try:
        if read_state(path).num_bytes > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} is too large for a manifest; {_REMEDY}")
        content = path.read_bytes()
    except PermissionError as error:
        raise BundleError(
            f"{path} is not for this user to read; mend its permissions or the folder's"
        ) from error
    except OSError as error:
        raise BundleError(
            f"{bundle} is no bundle ({MANIFEST_FILE}: {error.strerror}); build one with"
            " export/build_engine.py"
        ) from error
    try:
        header = msgspec.json.decode(content, type=_Header)
        if header.schema_version != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: schema version {header.schema_version}, this release serves"
                f" {SCHEMA_VERSION}; build the bundle again with this release, or serve it with the"
                f" one that built it ({header.release})"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except _DAMAGED as error:
        raise BundleError(f"{path} is damaged ({error}); copy or build the bundle again") from error
    if manifest.template_version != TEMPLATE_VERSION:
        raise BundleError(
            f"{path}: prompt template {manifest.template_version}, this release writes"
            f" {TEMPLATE_VERSION}; build the bundle with this release"
        )
    if manifest != seal(manifest):
        raise BundleError(
            f"{path} is damaged: it is not what its digest says; copy or build the bundle again"
        )
    return manifest


def seal(manifest: Manifest) -> Manifest:
    """Give the manifest with its digest, by which any later change shows."""
    content = msgspec.json.encode(msgspec.structs.replace(manifest, digest=""))
    return msgspec.structs.replace(manifest, digest=hashlib.sha256(content).hexdigest())


def write_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Write a manifest with its digest, and give that."""
    sealed = seal(manifest)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n")
    return sealed


def verify_files(bundle: Path, manifest: Manifest) -> VerifiedFiles:
    """Check that every file is there and has the SHA-256 of the manifest.

    Raises:
        BundleError: a file is missing or differs.
    """
    with ThreadPoolExecutor() as threads:
        states = threads.map(
            lambda entry: _verify(bundle / entry[0], entry[1]), manifest.files.items()
        )
        return VerifiedFiles(bundle, dict(zip(manifest.files, states, strict=True)))


def graph_digest(files: Mapping[str, FileEntry]) -> str:
    """Give the SHA-256 of the encoder graph and its weights, of which a plan is compiled."""
    digests = [files[name].sha256 for name in (GRAPH_FILE, WEIGHTS_FILE)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def describe_file(path: Path) -> FileEntry:
    return FileEntry(sha256_of_file(path), path.stat().st_size)


def _verify(path: Path, expected: FileEntry) -> FileState:
    try:
        state = read_state(path)
        if state.num_bytes != expected.num_bytes:
            raise BundleError(
                f"{path} has {state.num_bytes} bytes, expected {expected.num_bytes}; {_REMEDY}"
            )
        sha256 = sha256_of_file(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; {_REMEDY}") from error
    if sha256 != expected.sha256:
        raise BundleError(
            f"{path} is damaged: its SHA-256 is {sha256}, expected {expected.sha256}; {_REMEDY}"
        )
    return state
