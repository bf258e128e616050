"""The statistics in a bundle: each layer's parameters, and what is expected of live data. Needs numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bundle.errors import BundleError
from bundle.files import Bundle
from bundle.manifest import BatchNormRecord
from drift import LayerReference, Layout, Moments, Reference, Thresholds

PARAMETERS_FILE = "batchnorm.safetensors"
DRIFT_FILE = "drift.safetensors"
PROBE_FILE = "probe.onnx"

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerStatistics:
    """One layer's parameters, float32 [channels] each, bit for bit as trained.

    Attributes:
        record: what the manifest says of the layer.
        gamma: ones where the layer does not scale.
        beta: zeros where the layer has no centre.
        mean, variance: the moving statistics.
    """

    record: BatchNormRecord
    gamma: Array
    beta: Array
    mean: Array
    variance: Array

    @property
    def affine(self) -> tuple[Array, Array]:
        """The s and t of y = s·x + t at inference, float64 [channels]."""
        scale = self.gamma.astype(np.float64) / np.sqrt(self.variance.astype(np.float64) + self.record.epsilon)
        return scale, self.beta.astype(np.float64) - scale * self.mean.astype(np.float64)


def read_statistics(bundle: Bundle) -> dict[str, LayerStatistics]:
    """The parameters of every layer, by name, in the order of the network.

    Raises:
        BundleError: the arrays are not there or do not fit the manifest.
    """
    if not bundle.manifest.batchnorm:
        return {}
    arrays = _load(bundle, PARAMETERS_FILE)

    def take(record: BatchNormRecord, name: str, default: float | None = None) -> Array:
        array = arrays.get(f"{record.name}/{name}")
        if array is None and default is not None:
            return np.full(record.channels, default, np.float32)
        if array is None or array.shape != (record.channels,):
            what = f"{record.name}/{name} is not {record.channels} numbers"
            raise BundleError(f"{bundle.folder / PARAMETERS_FILE}: {what}")
        return array

    return {
        record.name: LayerStatistics(
            record,
            take(record, "gamma", None if record.scale else 1.0),
            take(record, "beta", None if record.center else 0.0),
            take(record, "moving_mean"),
            take(record, "moving_variance"),
        )
        for record in bundle.manifest.batchnorm
    }


def layer_references(statistics: dict[str, LayerStatistics]) -> dict[str, LayerReference]:
    """The layers that have a tap, as drift is measured against them."""
    return {
        name: LayerReference(
            layer.record.epsilon,
            layer.mean.astype(np.float64),
            layer.variance.astype(np.float64),
            np.array([scale is not None for scale in layer.record.tap.scale]),
        )
        for name, layer in statistics.items()
        if layer.record.tap is not None
    }


def read_reference(bundle: Bundle) -> tuple[Reference, Thresholds | None] | None:
    """What live statistics are compared with, and how much is chance; None if no layer can be watched.

    Raises:
        BundleError: a file is not there or does not fit the manifest.
    """
    layers = layer_references(read_statistics(bundle))
    if not layers or PROBE_FILE not in bundle.manifest.files:
        return None
    said = bundle.manifest.drift
    if said is None:
        return Reference(layers), None
    layout = Layout.of({name: len(layer.mean) for name, layer in layers.items()})
    try:
        reference = Reference(layers, Moments.from_arrays(layout, _load(bundle, DRIFT_FILE)))
    except (KeyError, ValueError) as error:
        raise BundleError(f"{bundle.folder / DRIFT_FILE}: does not fit the manifest: {error}") from error
    return reference, Thresholds(said.images, said.expected, said.limit, said.rate)


def _load(bundle: Bundle, name: str) -> dict[str, Array]:
    try:
        arrays: dict[str, Array] = load_file(bundle.path(name))
    except Exception as error:  # safetensors' own errors share no base class with the others
        raise (
            error if isinstance(error, BundleError) else BundleError(f"{bundle.folder / name}: not readable: {error}")
        ) from error
    return arrays
