"""Runs the encoder graph with ONNX Runtime's CUDA provider: bound buffers and CUDA graphs."""
