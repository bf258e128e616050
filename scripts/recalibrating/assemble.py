"""A recalibration from end to end: from a bundle and images to the next version of the model."""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

import bnfold
from bnfold.probe import probe
from bnfold.reestimate import Layer, Reestimated, reestimate
from bnfold.report import Report
from bundle import (
    BatchNormRecord,
    Bundle,
    Certificate,
    DriftThresholds,
    Manifest,
    Recalibration,
    Tap,
    write_bundle,
)
from bundle.statistics import DRIFT_FILE, PARAMETERS_FILE, LayerStatistics, layer_references, read_statistics
from drift import Layout, calibrate
from drift.thresholds import FEWEST
from scripts.converting import card
from scripts.recalibrating import guards
from scripts.recalibrating.errors import RecalibrationError, RefusedError
from scripts.recalibrating.images import digest, only_input
from scripts.recalibrating.measure import agreement, answers, early_features, outputs, picture_moments, session

PSEUDO_COUNT = 32.0
"""Images that the source statistics count for; chosen by measurement, see docs/statistics.md."""
PROVED = 256  # real images in the certificate
CALIBRATED = 1024  # images that the thresholds for drift are taken from
WINDOWS = 2000

Progress = Callable[[str, float], None]
Array = NDArray[np.float64]
Kept = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Samples:
    """Images, and their classes where they are known.

    Attributes:
        images: [n, …] as the network takes them.
        labels: [n], or None.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64] | None = None


def recalibrate(
    parent: Bundle,
    samples: Samples,
    *,
    source: Samples | None = None,
    pseudo_count: float = PSEUDO_COUNT,
    force: bool = False,
    progress: Progress = lambda step, share: None,
) -> Bundle:
    """Make the next version of a model, with statistics re-estimated on new images.

    It is written beside its parent and is a proposal: the default only when somebody promotes it. The images are not
    kept. The Keras network is not either, since it holds the old statistics.

    Args:
        parent: the bundle to start from.
        samples: new images, unlabelled or labelled.
        source: images of the training's kind, to see what the new version does to them; the golden ones by default.
        pseudo_count: images that the parent's statistics count for.
        force: make it although a guard refuses; recorded in the manifest.
        progress: told what is being done, and the share that is done.

    Raises:
        RefusedError: a guard refused.
        RecalibrationError: the bundle or the images cannot be used, or the result is not the same function.
        BundleError: a file of the parent is missing.
        bnfold.FoldError: the statistics cannot be re-estimated, or not folded.
    """
    name = only_input(parent.manifest).name
    images = samples.images
    reference = onnx.load_model(str(parent.path("reference.onnx")))
    served = onnx.load_model(str(parent.path("model.onnx")))
    progress("looking at the images", 0.0)
    before = answers(served, images)
    tested = [guards.enough(len(images)), guards.one_kind(early_features(reference, images))]

    def layer(node: str, number: int, of: int) -> None:
        progress(f"measuring {node}", 0.1 + 0.5 * number / of)

    renewed = reestimate(reference, {name: images}, pseudo_count=pseudo_count, progress=layer)
    progress("folding", 0.6)
    folded = bnfold.fold(renewed.model)
    after = answers(folded.model, images)
    tested += [guards.surer(before, after), guards.balanced(before, after)]
    if not force and not all(guard.passed for guard in tested):
        raise RefusedError(tested)

    progress("proving", 0.65)
    golden = _golden(parent, name)
    real = images[:PROVED] if golden is None else np.concatenate([golden, images[:PROVED]])
    proof = bnfold.verify(renewed.model, folded.model, {name: real})
    if not proof.holds:
        raise RecalibrationError(
            f"the folded graph is not the same function: its error is {proof.max_rel_error:.2g} of the largest output"
        )

    progress("calibrating", 0.8)
    statistics = _statistics(parent, renewed, folded.report)
    graph = probe(renewed.model, folded)
    thresholds, files = _calibration(graph, statistics, images)
    files |= {
        "model.onnx": folded.model.SerializeToString(deterministic=True),
        "reference.onnx": renewed.model.SerializeToString(deterministic=True),
        "probe.onnx": graph.SerializeToString(deterministic=True),
        PARAMETERS_FILE: _parameters(parent, renewed),
    }
    if golden is not None:
        names = [value.name for value in renewed.model.graph.output]
        wanted = outputs(session(renewed.model), golden, names)
        files["golden.npz"] = _npz({name: golden, **dict(zip(names, wanted, strict=True))})
    if "example.png" in parent.manifest.files:
        files["example.png"] = parent.path("example.png").read_bytes()

    progress("writing", 0.95)
    version = 1 + max(int(folder.name) for folder in parent.folder.parent.iterdir() if folder.name.isdigit())
    if source is None and golden is not None:
        source = Samples(golden)
    manifest = parent.manifest.model_copy(
        update={
            "version": version,
            "batchnorm": tuple(layer.record for layer in statistics.values()),
            "drift": thresholds,
            "operators": {"reference": folded.report.operators_before, "folded": folded.report.operators_after},
            "certificate": Certificate(**{key: getattr(proof, key) for key in Certificate.model_fields}),
            "recalibration": Recalibration(
                parent_version=parent.manifest.version,
                parent_sha256=parent.digest,
                images=len(images),
                images_sha256=digest(images),
                pseudo_count=pseudo_count,
                guards=tuple(tested),
                forced=not all(guard.passed for guard in tested),
                moved={layer.name: _moved(layer, statistics[layer.name].record) for layer in renewed.layers},
                entropy=(guards.entropy(before), guards.entropy(after)),
                agreement=agreement(before, after),
                accuracy=_accuracy(samples, before, after),
                **_on_source(source, served, folded.model),
            ),
            "keras_parity": None,  # those figures were the parent's
            "metrics": {},
            "training": {},
            "files": {},
        }
    )
    manifest = Manifest.model_validate(manifest.model_dump())
    complete = manifest.model_copy(update={"files": dict.fromkeys(files, "")})
    files["README.md"] = card.render(complete).encode()
    return write_bundle(parent.folder.parent / str(version), files, complete)


def _statistics(parent: Bundle, renewed: Reestimated, report: Report) -> dict[str, LayerStatistics]:
    """The parent's layers with the new statistics, and where the new fold put them."""
    layers = {layer.name: layer for layer in renewed.layers}
    entries = {entry.name: entry for entry in report.entries}
    found = {}
    for name, old in read_statistics(parent).items():
        if name not in layers or name not in entries:
            raise RecalibrationError(f"{parent.folder}: layer {name} of the manifest is not in reference.onnx")
        entry = entries[name]
        record: BatchNormRecord = old.record.model_copy(
            update={
                "status": entry.status,
                "rules": tuple(entry.rules),
                "into": tuple(entry.into),
                "residual": tuple(entry.residual),
                "conditioning": entry.conditioning,
                "tap": entry.tap and Tap(**asdict(entry.tap)),
                "tap_reason": entry.tap_reason,
            }
        )
        mean, variance = (values.astype(np.float32) for values in (layers[name].mean, layers[name].variance))
        found[name] = replace(old, record=record, mean=mean, variance=variance)
    return found


def _parameters(parent: Bundle, renewed: Reestimated) -> bytes:
    """γ and β as they were, and the new statistics, bit for bit as in the reference graph."""
    arrays = load_file(parent.path(PARAMETERS_FILE))
    for layer in renewed.layers:
        for key, values in (("moving_mean", layer.mean), ("moving_variance", layer.variance)):
            arrays[f"{layer.name}/{key}"] = values.astype(np.float32)
    return bytes(save_tensors(arrays))


def _calibration(
    graph: onnx.ModelProto, statistics: dict[str, LayerStatistics], images: NDArray[Any]
) -> tuple[DriftThresholds | None, dict[str, bytes]]:
    """What the new version is to expect of traffic: the new images are what its statistics stand for."""
    layers = layer_references(statistics)
    if not layers or len(images) < FEWEST:
        return None, {}
    layout = Layout.of({name: len(layer.mean) for name, layer in layers.items()})
    moments = picture_moments(graph, layout, images[:CALIBRATED])
    reference, thresholds = calibrate(layers, moments, windows=WINDOWS)
    assert reference.expected is not None
    kept = DriftThresholds(
        held_out=len(moments),
        images=thresholds.images,
        expected=thresholds.expected,
        limit=thresholds.limit,
        rate=thresholds.rate,
    )
    arrays = {key: np.asarray(value) for key, value in reference.expected.to_arrays().items()}
    return kept, {DRIFT_FILE: bytes(save_tensors(arrays))}


def _golden(parent: Bundle, name: str) -> NDArray[Any] | None:
    if "golden.npz" not in parent.manifest.files:
        return None
    with np.load(parent.path("golden.npz"), allow_pickle=False) as archive:
        return np.asarray(archive[name])


def _npz(arrays: Kept) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _moved(layer: Layer, record: BatchNormRecord) -> float:
    sigma = np.sqrt(layer.source_variance + record.epsilon)
    return float(np.sqrt(np.mean(((layer.mean - layer.source_mean) / sigma) ** 2)))


def _accuracy(samples: Samples, before: Array, after: Array) -> tuple[float, float] | None:
    if samples.labels is None:
        return None
    old, new = (float(np.mean(answer.argmax(1) == samples.labels)) for answer in (before, after))
    return old, new


def _on_source(source: Samples | None, served: onnx.ModelProto, renewed: onnx.ModelProto) -> dict[str, Any]:
    if source is None:
        return {}
    before, after = answers(served, source.images), answers(renewed, source.images)
    return {
        "source_images": len(source.images),
        "source_agreement": agreement(before, after),
        "source_accuracy": _accuracy(source, before, after),
    }
