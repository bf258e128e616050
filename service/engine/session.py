"""ONNX Runtime sessions: the provider that was asked for and no other, threads as set, no spinning."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from service.engine.cuda import CUDA, BucketSession, nodes_by_provider, provider_options, strays
from service.errors import LoadError, StartupError
from service.protocol.datatypes import BY_ONNX
from service.protocol.signature import Signature, Tensor
from service.protocol.tensors import Array
from service.settings import Settings

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def run(self, output_names: list[str] | None, feed: dict[str, Array]) -> list[Array]:
        """Evaluate the graph."""
        ...


def resolve_provider(settings: Settings) -> str:
    """The execution provider that the setting means here.

    Raises:
        StartupError: CUDA was asked for and this ONNX Runtime does not have it.
    """
    available = ort.get_available_providers()
    if settings.provider == "cpu":
        return CPU
    if CUDA in available:
        return CUDA
    if settings.provider == "cuda":
        raise StartupError(
            f"provider cuda was asked for, but this ONNX Runtime ({ort.__version__}) has only {', '.join(available)}; "
            "install the extra `gpu` instead of `cpu`, or set FOLDSERVE_PROVIDER=auto"
        )
    return CPU


def open_session(path: Path, provider: str, settings: Settings) -> tuple[Any, str]:
    """A session on the given provider, and the provider that it really has.

    Raises:
        LoadError: ONNX Runtime cannot load the file.
        StartupError: the session does not run on CUDA although it was asked for by name.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = [CPU]
    if provider == CUDA:
        providers = [(CUDA, provider_options(settings)), CPU]
    try:
        session = ort.InferenceSession(path, options, providers=providers)
        if not has_few_shapes(session):  # a plan of the memory is kept for each that comes: it would only grow
            options.enable_mem_pattern = False
            session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        if provider == CUDA and settings.provider == "cuda":
            raise StartupError(f"provider cuda was asked for and does not work: {_first_line(error)}") from error
        raise LoadError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error
    actual = session.get_providers()[0]
    if actual != provider:
        if settings.provider == "cuda":
            raise StartupError(f"provider cuda was asked for, but ONNX Runtime fell back to {actual}: is there a card?")
        log.warning("%s: no %s here, running on %s", path, provider, actual)
    if actual == CUDA:
        signature = read_signature(session, path.parent.parent.name, settings.max_batch_size)
        _check_nodes(path, providers, signature, settings)
        session = BucketSession(session, batched=signature.batched)
    return session, actual


def _check_nodes(path: Path, providers: list[Any], signature: Signature, settings: Settings) -> None:
    feed = dict(zip((t.name for t in signature.inputs), example_inputs(signature, 1), strict=True))
    try:
        elsewhere = strays(nodes_by_provider(path, providers, feed))
    except OSError as error:
        log.warning("%s: cannot see where its nodes run: %s", path, error)
        return
    if elsewhere and settings.provider == "cuda":
        raise StartupError(f"provider cuda was asked for, but {', '.join(elsewhere)} of {path} run elsewhere")
    if elsewhere:
        log.warning("%s: %s do not run on the card", path, ", ".join(elsewhere))


def has_few_shapes(session: Any) -> bool:
    """Whether nothing but the batch varies, which runs in slices of a bounded size: then so is the number of shapes."""
    inputs, outputs = (
        [[isinstance(size, int) and size >= 0 for size in argument.shape] for argument in arguments]
        for arguments in (session.get_inputs(), session.get_outputs())
    )
    batched = all(known and not known[0] for known in inputs + outputs)
    return all(all(known[1:] if batched else known) for known in inputs)


def read_signature(session: Any, model: str, max_batch_size: int) -> Signature:
    """The session's own account of its inputs and outputs.

    Raises:
        LoadError: a datatype that the protocol does not have.
    """
    return Signature(model, _tensors(session.get_inputs()), _tensors(session.get_outputs()), max_batch_size)


def _tensors(arguments: Sequence[Any]) -> tuple[Tensor, ...]:
    tensors = []
    for argument in arguments:
        datatype = BY_ONNX.get(argument.type)
        if datatype is None:
            raise LoadError(f"tensor '{argument.name}' is {argument.type}, which the protocol cannot carry")
        shape = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in argument.shape)
        tensors.append(Tensor(argument.name, datatype, shape))
    return tuple(tensors)


def example_inputs(signature: Signature, rows: int, seed: int = 0) -> list[Array]:
    """Random inputs that fit, for warming up and for checking a model against itself; free dimensions are 1."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for tensor in signature.inputs:
        first = rows if signature.batched else 1
        shape = [first if i == 0 and d == -1 else max(d, 1) for i, d in enumerate(tensor.shape)]
        kind = tensor.datatype.dtype.kind
        if kind == "O":
            arrays.append(np.full(shape, "", dtype=object))
        elif kind == "f":
            arrays.append(rng.random(shape).astype(tensor.datatype.dtype))
        else:
            arrays.append(rng.integers(0, 2 if kind == "b" else 127, shape).astype(tensor.datatype.dtype))
    return arrays


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
