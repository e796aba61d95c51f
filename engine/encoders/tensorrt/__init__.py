"""Compiles the encoder graph with TensorRT or TensorRT-RTX and runs the plan on a GPU."""
