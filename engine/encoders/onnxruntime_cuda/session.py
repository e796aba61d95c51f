"""Opens the encoder graph with ONNX Runtime's CUDA provider, or says what it lacks."""

import contextlib
import io
from pathlib import Path

import onnxruntime

from engine.errors import BackendUnavailable
from engine.untyped import Untyped

PROVIDER = "CUDAExecutionProvider"
OPTIONS = {
    "device_id": "0",
    "enable_cuda_graph": "1",
    # The graph states its precisions itself, and fp32 is to be fp32.
    "use_tf32": "0",
    # The sizes are few and fixed: what is taken beyond them would never be used.
    "arena_extend_strategy": "kSameAsRequested",
}
INSTALL = (
    "pip install 'llmsrec-engine[onnxruntime-cuda]', and then, because both packages are one"
    " folder: pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps"
    " onnxruntime-gpu"
)


def require_provider() -> None:
    """Refuse an ONNX Runtime that was built without CUDA.

    Raises:
        BackendUnavailable: with the packages to install.
    """
    available = onnxruntime.get_available_providers()
    if PROVIDER not in available:
        raise BackendUnavailable(
            f"onnxruntime {onnxruntime.__version__} is installed with {', '.join(available)};"
            f" {PROVIDER} is needed: {INSTALL}"
        )


def open_session(graph: Path) -> Untyped:
    """Load a graph on the first GPU, all of it.

    Raises:
        BackendUnavailable: CUDA does not start, or the GPU cannot run the whole graph.
    """
    complaints = _load_cuda_libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Only arithmetic on shapes stays on the CPU.
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            graph,
            options,
            providers=[(PROVIDER, OPTIONS), "CPUExecutionProvider"],
            enable_fallback=False,
        )
    except Exception as error:
        remedy = "docs/gpu.md names the versions that can"
        if "allocate memory" in str(error):
            remedy = "stop what else uses the GPU"
        raise BackendUnavailable(
            f"onnxruntime-gpu {onnxruntime.__version__} cannot load {graph} on this GPU as a"
            f" whole: {str(error).strip()}; {remedy}"
        ) from error
    # It goes on without a provider that does not start, and tells only its log.
    if PROVIDER not in session.get_providers():
        raise BackendUnavailable(
            f"{PROVIDER} of onnxruntime-gpu {onnxruntime.__version__} does not start:"
            f" {complaints or 'see its log above'}; it needs CUDA {_cuda_version()} and a driver"
            f" that supports it: {INSTALL}"
        )
    return session


def _load_cuda_libraries() -> str:
    """Load CUDA from NVIDIA's wheels or the system, and give what was complained of."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    lines = printed.getvalue().splitlines()
    return "; ".join(line for line in lines if line.startswith("Failed"))


def _cuda_version() -> str:
    return getattr(onnxruntime, "cuda_version", "") or "of its own release"
