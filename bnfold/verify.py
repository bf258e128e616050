"""Measures how far a folded graph is from its reference, and puts it in a certificate."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from bnfold.errors import InputError
from bnfold.evaluate import Float64Evaluator
from bnfold.files import LARGEST_FILE, save
from bnfold.samples import batch_size, runtime_inputs, samples
from bnfold.wire import wire, wire_size

TOLERANCE = 1e-5
CHUNK = 16
"""Examples that run together; small, since the windows of a convolution are copied in float64."""

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Certificate:
    """What was measured to show that the folded and the reference graph are the same function.

    The reference is evaluated in float64, independently of ONNX Runtime; the folded graph is run by ONNX Runtime on
    the CPU. Inputs are real ones, if given, and generated ones (`bnfold.samples`).
    """

    inputs: dict[str, int]
    """Examples tried, by kind: real, random, border, extreme."""
    batch_sizes: tuple[int, ...]
    max_abs_error: float
    """Largest difference of any output."""
    max_rel_error: float
    """The same, relative to the largest magnitude of that output."""
    max_abs_error_logits: float | None
    """Of the input of the final Softmax, relative to the largest logit; None without a final Softmax."""
    argmax_agreement: float
    """Share of the examples with the same largest entry of the first output."""
    smallest_margin: float
    """Smallest distance of the two largest entries of the first output; 0 if it has fewer than two."""
    conditioning: float
    """Largest |mean| / sqrt(variance + epsilon) of the reference's BatchNormalization nodes."""
    reference_sha256: str
    """Of the model as `SerializeToString(deterministic=True)` writes it."""
    folded_sha256: str
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether every error is within the tolerance, relative to the largest output and to the largest logit."""
        errors = (self.max_rel_error, self.max_abs_error_logits or 0.0)
        return all(error <= self.tolerance for error in errors)

    def to_json(self) -> str:
        """The certificate as JSON text."""
        return json.dumps(asdict(self), indent=2)


def verify(
    reference: onnx.ModelProto,
    folded: onnx.ModelProto,
    inputs: Mapping[str, Array] | None = None,
    *,
    count: int = 8,
    tolerance: float = TOLERANCE,
) -> Certificate:
    """Compares a folded graph with its reference on real and generated inputs.

    Args:
        reference: the unfolded model.
        folded: what `bnfold.fold` made of it.
        inputs: a batch of real examples per graph input; they also show sizes that the graph leaves open.
        count: examples of each generated kind.
        tolerance: what `Certificate.holds` allows.

    Returns:
        The certificate; look at its `holds`.

    Raises:
        InputError: inputs or outputs of the two graphs differ, a size is not known, or a graph cannot be run.
    """
    _same_signature(reference, folded)
    fixed = batch_size(reference)
    kinds = samples(reference, inputs, count if fixed is None else max(count, fixed))
    truth, actual = _Truth(reference), _Actual(folded)
    errors = _Errors()
    sizes: set[int] = set()
    counts: dict[str, int] = {}
    for kind, batches in kinds.items():
        for batch in _chunks(batches, fixed):
            size = len(next(iter(batch.values())))
            expected = truth(batch)
            errors.add(expected, actual(batch))
            counts[kind] = counts.get(kind, 0) + size
            sizes.add(size)
            if fixed is None and size > 1:
                errors.add(truth(_first(batch)), actual(_first(batch)), counted=False)
                sizes.add(1)
    return Certificate(
        inputs=counts,
        batch_sizes=tuple(sorted(sizes)),
        max_abs_error=errors.absolute,
        max_rel_error=errors.relative,
        max_abs_error_logits=errors.logits if truth.logits else None,
        argmax_agreement=errors.agreement,
        smallest_margin=errors.margin,
        conditioning=_conditioning(reference),
        reference_sha256=digest(reference),
        folded_sha256=digest(folded),
        tolerance=tolerance,
    )


def digest(model: onnx.ModelProto) -> str:
    """The sha256 of a model's deterministic serialisation."""
    sha256 = hashlib.sha256()
    for piece in wire(model):
        sha256.update(piece)
    return sha256.hexdigest()


class _Truth:
    """The reference in float64; the logits, if there are any, come under the key ``""``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.logits = _logits(model)
        self._names = [info.name for info in model.graph.output]
        self._run = Float64Evaluator(model, [self.logits] if self.logits else [])

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        results = self._run(batch)
        found = {name: results[name] for name in self._names}
        return found | ({"": results[self.logits]} if self.logits else {})


class _Actual:
    """The folded graph in ONNX Runtime, as it is served; the logits come from a second session."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._names = [info.name for info in model.graph.output]
        self._session = _session(model)
        self._logits = _logits(model)
        self._second: ort.InferenceSession | None = None
        if self._logits:
            open_model = onnx.ModelProto()
            open_model.CopyFrom(model)
            if self._logits not in self._names:
                open_model.graph.output.append(helper.make_empty_tensor_value_info(self._logits))
            self._second = _session(open_model)

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = dict(zip(self._names, self._session.run(self._names, dict(batch)), strict=True))
        if self._second is not None:
            found[""] = self._second.run([self._logits], dict(batch))[0]
        return found


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        if wire_size(model) <= LARGEST_FILE:
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
            path = Path(folder, "model.onnx")
            save(model, path)
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"ONNX Runtime does not load the model: {error}") from error


class _Errors:
    """Running maxima over batches."""

    def __init__(self) -> None:
        self.absolute = self.relative = self.logits = 0.0
        self._margin = np.inf
        self._same = self._seen = 0

    def add(self, expected: Mapping[str, Array], actual: Mapping[str, Array], counted: bool = True) -> None:
        """Compares one batch; `counted` if its examples count for the argmax."""
        for place, (name, want) in enumerate(expected.items()):
            wanted, found = np.asarray(want, np.float64), np.asarray(actual[name], np.float64)
            if wanted.shape != found.shape:
                raise InputError(f"output {name or 'logits'}: shape {found.shape}, the reference has {wanted.shape}")
            with np.errstate(invalid="ignore"):
                difference = np.where(wanted == found, 0.0, np.abs(wanted - found))
            difference = np.where(np.isnan(wanted) & np.isnan(found), 0.0, np.nan_to_num(difference, nan=np.inf))
            error = float(difference.max(initial=0.0))
            largest = float(np.abs(wanted).max(initial=0.0))
            relative = error / max(largest, 1e-30) if error else 0.0
            if name == "":
                self.logits = max(self.logits, relative)
                continue
            self.absolute, self.relative = max(self.absolute, error), max(self.relative, relative)
            if place == 0 and counted:
                self._compare_winners(wanted, found)

    def _compare_winners(self, wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> None:
        if wanted.ndim < 2 or wanted.shape[-1] < 2:
            return
        rows, others = wanted.reshape(-1, wanted.shape[-1]), found.reshape(-1, wanted.shape[-1])
        top = np.sort(rows, axis=1)[:, -2:]
        self._margin = min(self._margin, float((top[:, 1] - top[:, 0]).min(initial=np.inf)))
        self._same += int((rows.argmax(axis=1) == others.argmax(axis=1)).sum())
        self._seen += len(rows)

    @property
    def agreement(self) -> float:
        """Share of equal winners."""
        return self._same / self._seen if self._seen else 1.0

    @property
    def margin(self) -> float:
        """Smallest distance of winner and runner-up."""
        return float(self._margin) if np.isfinite(self._margin) else 0.0


def _chunks(batches: Mapping[str, Array], fixed: int | None) -> Iterator[dict[str, Array]]:
    total = min(len(batch) for batch in batches.values())
    size = fixed or CHUNK
    for start in range(0, total if fixed is None else total - size + 1, size):
        yield {name: batch[start : start + size] for name, batch in batches.items()}


def _first(batch: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array[:1] for name, array in batch.items()}


def _logits(model: onnx.ModelProto) -> str:
    output = model.graph.output[0].name if model.graph.output else ""
    for node in model.graph.node:
        if node.op_type == "Softmax" and node.domain in ("", "ai.onnx") and output in node.output:
            return str(node.input[0])
    return ""


def _conditioning(model: onnx.ModelProto) -> float:
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    worst = 0.0
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and all(name in arrays for name in node.input[3:5]):
            mean, variance = (numpy_helper.to_array(arrays[name]).astype(np.float64) for name in node.input[3:5])
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            with np.errstate(all="ignore"):
                worst = max(worst, float(np.nan_to_num(np.abs(mean) / np.sqrt(variance + epsilon)).max(initial=0.0)))
    return worst


def _same_signature(reference: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    for side, names in (
        ("inputs", [[info.name for info in runtime_inputs(m)] for m in (reference, folded)]),
        ("outputs", [[info.name for info in m.graph.output] for m in (reference, folded)]),
    ):
        if names[0] != names[1]:
            raise InputError(f"the {side} differ: {', '.join(names[0])} in the reference, {', '.join(names[1])} folded")
