"""Opens the encoder of a bundle on the backend that it was built for."""

from engine.backends import Encoder
from engine.backends.onnxruntime import OnnxRuntimeEncoder
from engine.backends.tensorrt.encoder import TensorRTEncoder
from engine.bundle import Bundle
from engine.config import EncoderConfig


def open_encoder(bundle: Bundle, config: EncoderConfig) -> Encoder:
    """Load the encoder; `config` is for the CPU.

    Raises:
        BundleError: ONNX Runtime cannot load the graph.
        PlanError: the TensorRT plan cannot be run here.
    """
    plan = bundle.manifest.plan
    if plan is None:
        return OnnxRuntimeEncoder(bundle.path, bundle.item_table, config)
    return TensorRTEncoder(bundle.path, plan, bundle.item_table)
