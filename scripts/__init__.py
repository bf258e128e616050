"""What a person runs: train, export. The only room that knows Keras."""

import os

# The ONNX Runtime's Linux wheels send usage data to their maker unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
