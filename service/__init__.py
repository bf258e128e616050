"""The server: bundles in, answers out, over REST."""

import os

# Since 1.29 the ONNX Runtime's Linux wheels send usage data to their maker unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
