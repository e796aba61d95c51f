"""Opens the encoder of a bundle on the backend that it was built for."""

import msgspec

from engine.backends import Encoder
from engine.backends.onnxruntime import OnnxRuntimeEncoder
from engine.backends.onnxruntime_cuda.encoder import CudaEncoder
from engine.backends.tensorrt.encoder import TensorRTEncoder
from engine.bundle import Bundle
from engine.config import EncoderConfig


def open_encoder(bundle: Bundle, config: EncoderConfig) -> Encoder:
    """Load the encoder; `config` is for the CPU.

    Raises:
        BundleError: ONNX Runtime cannot load the graph.
        PlanError: there is no GPU that can run what the bundle holds for one.
    """
    manifest = bundle.manifest
    if manifest.plan is not None:
        return TensorRTEncoder(bundle.path, manifest.plan, bundle.item_table)
    if manifest.buckets is not msgspec.UNSET:
        return CudaEncoder(bundle.path, manifest.buckets, bundle.item_table)
    return OnnxRuntimeEncoder(bundle.path, bundle.item_table, config)
