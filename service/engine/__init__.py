"""Running models: ONNX Runtime sessions, natural batching."""
