"""The export from end to end: every step of the way from a `.keras` file to a verified bundle."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from PIL import Image
from safetensors.numpy import save as save_tensors

import bnfold
from bnfold.probe import probe
from bundle import BatchNormRecord, Bundle, BundleError, Certificate, Manifest, Tap, TensorSpec, write_bundle
from bundle.manifest import Datatype
from bundle.statistics import LayerStatistics, layer_references
from scripts.converting import card, parity
from scripts.converting.calibration import Calibration, calibration
from scripts.converting.canonical import canonicalise
from scripts.converting.samples import Samples
from scripts.converting.trace import PARAMETERS, BatchNormLayer, ExportError, batchnorm_layers, functional, trace

GOLDEN = 16
RUN_FILES = ("config.json", "history.csv", "classes.csv", "results.json", "curves.png", "confusion.png")
_DATATYPES: dict[int, Datatype] = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FP32"}


def export(
    path: Path,
    name: str,
    repository: Path,
    samples: Samples,
    *,
    version: int | None = None,
    datatype: str | None = None,
    compared: Sequence[Path] = (),
) -> Bundle:
    """Export a trained network as a bundle `<repository>/<name>/<version>`.

    Args:
        path: the `.keras` file; a training run's files beside it go into the bundle.
        name: the model's name.
        repository: the model repository.
        samples: real inputs.
        version: default one more than the newest.
        datatype: `uint8` or `float32`; default `uint8` if the network begins by rescaling.
        compared: folders of other runs, mentioned in the model card.

    Raises:
        ExportError: the network cannot be exported, or the export is not the same function.
        BundleError: the version exists already.
    """
    version = version or _next_version(repository / name)
    if (repository / name / str(version)).exists():
        raise BundleError(f"{repository / name / str(version)}: exists already; a version is never overwritten")
    model = functional(_load(path))
    pixels = datatype == "uint8" or (datatype is None and _rescales(model))
    inputs, outputs = _names(model)
    reference = trace(model, inputs, outputs, pixels)
    canonicalise(reference, model)
    onnx.checker.check_model(reference, full_check=True)
    folded = bnfold.fold(reference)

    cases = {"random": parity.random_inputs(model, inputs, pixels)}
    real = _real(samples, cases["random"])
    if real:
        cases["real"] = {key: values[:1000] for key, values in real.items()}
    graph = parity.session(folded.model)
    worst = parity.check(model, graph, cases)
    proof = bnfold.verify(reference, folded.model, inputs=real and {key: values[:256] for key, values in real.items()})
    golden_inputs = _golden(real, samples) if real else {k: v[:GOLDEN] for k, v in cases["random"].items()}
    golden = parity.run(parity.session(reference), golden_inputs, GOLDEN)
    metrics: dict[str, float] = {}
    if real and samples.classes is not None and len(outputs) == 1:
        ours, theirs = parity.run(graph, real), parity.predict(model, real, outputs)
        worst = max(worst, parity.largest_difference(ours, theirs))
        metrics = _metrics(ours[outputs[0]], theirs[outputs[0]], samples.classes)
    if not worst <= parity.LIMIT:
        raise ExportError(f"parity: on the test set the folded graph differs from model.predict by {worst:.2g}")

    norms = batchnorm_layers(model)
    files = {
        "model.onnx": folded.model.SerializeToString(deterministic=True),
        "reference.onnx": reference.SerializeToString(deterministic=True),
        "probe.onnx": probe(reference, folded).SerializeToString(deterministic=True),
        "batchnorm.safetensors": save_tensors(_tensors(norms)),
        "golden.npz": _npz({**golden_inputs, **golden}),
        "model.keras": path.read_bytes(),
        **_example(golden_inputs),
        **_run_files(path.parent),
    }
    records = _records(norms, folded.report)
    calibrated = _calibration(files["probe.onnx"], norms, records, _held_out(samples, cases["random"]))
    if calibrated:
        files["drift.safetensors"] = calibrated.file
    manifest = Manifest(
        name=name,
        version=version,
        inputs=tuple(_spec(value) for value in folded.model.graph.input),
        outputs=tuple(_spec(value) for value in folded.model.graph.output),
        labels=samples.labels,
        batchnorm=records,
        drift=calibrated and calibrated.thresholds,
        operators={"reference": folded.report.operators_before, "folded": folded.report.operators_after},
        certificate=Certificate(**{key: getattr(proof, key) for key in Certificate.model_fields}),
        keras_parity=worst,
        metrics=metrics,
        training=_training(path.parent, compared),
        data=samples.data or {},
        files=dict.fromkeys(files, ""),
    )
    files["README.md"] = card.render(manifest).encode()
    return write_bundle(repository / name / str(version), files, manifest)


def _load(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: Keras cannot load it: {str(error).splitlines()[0]}") from error


def _next_version(folder: Path) -> int:
    versions = [int(entry.name) for entry in folder.glob("*") if entry.name.isdigit()]
    return max(versions, default=0) + 1


def _rescales(model: keras.Model) -> bool:
    """A network that begins with Rescaling or Normalization takes raw pixels."""
    first = next((layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)), None)
    return isinstance(first, keras.layers.Rescaling | keras.layers.Normalization)


def _names(model: keras.Model) -> tuple[dict[str, str], list[str]]:
    """`image` and `probabilities` for a classifier of pictures, else Keras' own names."""
    inputs = {tensor.name: tensor.name.replace(":", "_") for tensor in model.inputs}
    outputs = [str(name) for name in model.output_names]
    if len(inputs) == 1 and len(outputs) == 1:
        last = model.layers[-1]
        activation = getattr(last, "activation", None)
        softmax = activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax)
        inputs = dict.fromkeys(inputs, "image" if len(model.inputs[0].shape) == 4 else "input")
        outputs = ["probabilities" if softmax else "output"]
    return inputs, outputs


def _real(samples: Samples, like: parity.Arrays) -> parity.Arrays | None:
    if samples.images is None or len(like) != 1:
        return None
    ((name, noise),) = like.items()
    if samples.images.shape[1:] != noise.shape[1:]:
        raise ExportError(f"samples: pictures of shape {samples.images.shape[1:]}, the network takes {noise.shape[1:]}")
    return {name: samples.images.astype(noise.dtype)}


def _held_out(samples: Samples, like: parity.Arrays) -> parity.Arrays | None:
    return _real(replace(samples, images=samples.held_out), like)


def _calibration(
    probe_file: bytes,
    norms: Sequence[BatchNormLayer],
    records: Sequence[BatchNormRecord],
    held_out: parity.Arrays | None,
) -> Calibration | None:
    statistics = {
        record.name: LayerStatistics(record, *(norm.parameters[name] for name in PARAMETERS))
        for norm, record in zip(norms, records, strict=True)
    }
    return calibration(probe_file, layer_references(statistics), held_out) if held_out else None


def _golden(real: parity.Arrays, samples: Samples) -> parity.Arrays:
    """A few real pictures of every class, the first ones found."""
    ((name, images),) = real.items()
    rows = np.arange(len(images))
    if samples.classes is not None:
        each = -(-GOLDEN // max(len(np.unique(samples.classes)), 1))
        rows = np.concatenate([np.flatnonzero(samples.classes == c)[:each] for c in np.unique(samples.classes)])
    return {name: images[np.sort(rows[:GOLDEN] if samples.classes is None else rows)]}


def _metrics(ours: Any, theirs: Any, classes: Any) -> dict[str, float]:
    right = np.maximum(ours[np.arange(len(classes)), classes].astype(np.float64), 1e-12)
    return {
        "accuracy": float(np.mean(ours.argmax(1) == classes)),
        "loss": float(np.mean(-np.log(right))),
        "images": float(len(classes)),
        "same_class_as_keras": float(np.mean(ours.argmax(1) == theirs.argmax(1))),
    }


def _tensors(norms: Sequence[BatchNormLayer]) -> dict[str, Any]:
    return {f"{norm.layer.name}/{name}": values for norm in norms for name, values in norm.parameters.items()}


def _npz(arrays: parity.Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)  # zip entries carry a fixed date
    return buffer.getvalue()


def _example(golden: parity.Arrays) -> dict[str, bytes]:
    """The first golden input as a picture to try the server with, if it is one."""
    first = next(iter(golden.values()))[0]
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[-1] not in (1, 3):
        return {}
    buffer = io.BytesIO()
    Image.fromarray(first[..., 0] if first.shape[-1] == 1 else first).save(buffer, "PNG")
    return {"example.png": buffer.getvalue()}


def _run_files(folder: Path) -> dict[str, bytes]:
    return {f"training/{name}": (folder / name).read_bytes() for name in RUN_FILES if (folder / name).is_file()}


def _training(folder: Path, compared: Sequence[Path]) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        return {}
    packages = ("keras", "tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime")
    return {
        "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
        "results": _results(folder),
        "compared_with": {run.name: _results(run) for run in compared},
        "versions": {package: installed(package) for package in packages},
    }


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: no finished training run: {error}") from error
    return results


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, datatype=_DATATYPES[tensor.elem_type], shape=shape)


def _records(norms: Sequence[BatchNormLayer], report: Any) -> tuple[BatchNormRecord, ...]:
    entries = {entry.name: entry for entry in report.entries}
    return tuple(_record(norm, entries[norm.layer.name]) for norm in norms)


def _record(norm: BatchNormLayer, entry: Any) -> BatchNormRecord:
    layer = norm.layer
    rank = len(layer.input.shape)
    return BatchNormRecord(
        name=layer.name,
        axis=layer.axis % rank,
        channels=len(norm.parameters["gamma"]),
        epsilon=layer.epsilon,
        momentum=layer.momentum,
        center=layer.center,
        scale=layer.scale,
        status=entry.status,
        rules=tuple(entry.rules),
        into=tuple(entry.into),
        residual=tuple(entry.residual),
        conditioning=entry.conditioning,
        tap=entry.tap and Tap(**asdict(entry.tap)),
        tap_reason=entry.tap_reason,
    )
