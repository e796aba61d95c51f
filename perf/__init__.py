import engine  # noqa: F401 - it switches ONNX Runtime's telemetry off, before that is imported
