"""The type of objects of libraries that have no types: CUDA's bindings, TensorRT, ONNX Runtime."""

from typing import Any

Untyped = Any
