"""The offline toolchain: from a checkpoint to a bundle."""

# Before any module of this package imports ONNX Runtime, whose telemetry the engine switches off.
import engine  # noqa: F401
