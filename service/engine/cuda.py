"""What is different on a CUDA card: options, batches of few sizes, bound inputs and outputs, and proof that it is used.

Nothing here was run on a card so far: none was at hand. What does not need one is tested on the CPU.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service.protocol.tensors import Array
from service.settings import Settings

CUDA = "CUDAExecutionProvider"
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")


def provider_options(settings: Settings) -> dict[str, Any]:
    """ONNX Runtime's options of its CUDA provider.

    HEURISTIC: the default measures every algorithm anew for every shape. No TF32: answers equal the CPU's. The arena
    grows by what is asked for, not to the next power of two, so that the limit is not passed by rounding.
    """
    options: dict[str, Any] = {
        "device_id": settings.device_id,
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": 0,
        "arena_extend_strategy": "kSameAsRequested",
    }
    if settings.gpu_memory_mib:
        options["gpu_mem_limit"] = settings.gpu_memory_mib * 2**20
    return options


def bucket(rows: int) -> int:
    """The next power of two: so many sizes of batches there are for the card, which plans each of them anew."""
    return 1 << (rows - 1).bit_length()


class BucketSession:
    """A session whose batches are padded to few sizes, with inputs and outputs bound to the card's copies.

    Args:
        session: of ONNX Runtime.
        batched: whether the first dimension of every input and output is a batch that may vary.
    """

    def __init__(self, session: Any, *, batched: bool) -> None:
        self._session, self._batched = session, batched
        self._outputs = [output.name for output in session.get_outputs()]

    def get_inputs(self) -> Any:
        """Of ONNX Runtime's session."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """Of ONNX Runtime's session."""
        return self._session.get_outputs()

    def run(self, output_names: list[str] | None, feed: dict[str, Array]) -> list[Array]:
        """As `onnxruntime.InferenceSession.run`."""
        rows = len(next(iter(feed.values()))) if self._batched else 0
        wanted = bucket(rows) if rows else 0
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(_padded(array, wanted)))
        for name in output_names or self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return [output[:rows] for output in outputs] if rows else outputs


def _padded(array: Array, rows: int) -> Array:
    """With its last row repeated; as it is, if it has as many rows, or none are wanted."""
    if rows <= len(array):
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def nodes_by_provider(path: Path, providers: list[Any], feed: dict[str, Array]) -> dict[str, set[str]]:
    """On which providers the nodes of each operator really ran, by ONNX Runtime's own profile of one run.

    `get_providers` only says what a session may use: a node that a provider cannot take is given to the CPU.

    Raises:
        OSError: there is nowhere to write the profile.
    """
    found: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=providers)
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    for event in events:
        about = event.get("args", {})
        if about.get("provider"):
            found.setdefault(about["op_name"], set()).add(about["provider"])
    return found


def strays(found: dict[str, set[str]]) -> list[str]:
    """The operators that make up the work and ran elsewhere than on the card."""
    return sorted(operator for operator in HEAVY if found.get(operator, set()) - {CUDA})
