"""The report on the batch-normalisation layers: folded into the weights, but not lost."""

from typing import Any

import numpy as np

from bundle import Bundle, BundleError
from bundle.statistics import PARAMETERS_FILE, LayerStatistics, read_statistics
from drift.comparison import DEAD
from service.errors import LoadError, NotFoundError
from service.protocol.tensors import Array

WITHOUT_GAMMA = 1e-6  # a |γ| below it: the channel says the same whatever comes in


class BatchNormReport:
    """Every layer of a bundle: its parameters bit for bit, the affine y = s·x + t that it is, and where it went.

    Args:
        bundle: verified.

    Attributes:
        layers: the parameters, by the layers' names, in the order of the network.
        file: `batchnorm.safetensors`; None if there are no layers.

    Raises:
        LoadError: the arrays are not there or do not fit the manifest.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._manifest, self._digest = bundle.manifest, bundle.digest
        try:
            self.layers = read_statistics(bundle)
            self.file = bundle.path(PARAMETERS_FILE).read_bytes() if self.layers else None
        except (BundleError, OSError) as error:
            raise LoadError(str(error)) from error

    def whole(self, arrays: bool = False) -> dict[str, Any]:
        """All layers, for JSON.

        Args:
            arrays: with the numbers of every channel, or with their ranges alone.
        """
        return self._head() | {"layers": [describe(layer, arrays) for layer in self.layers.values()]}

    def layer(self, name: str, arrays: bool = False) -> dict[str, Any]:
        """One layer, for JSON.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._head() | describe(self._find(name), arrays)

    def raw(self, name: str | None = None) -> bytes:
        """γ, β, moving mean, moving variance, float32 little-endian [4, channels]; layer after layer if none is named.

        Raises:
            NotFoundError: there is no layer of that name.
        """
        layers = self.layers.values() if name is None else [self._find(name)]
        return b"".join(
            array.astype("<f4").tobytes()
            for layer in layers
            for array in (layer.gamma, layer.beta, layer.mean, layer.variance)
        )

    def _head(self) -> dict[str, Any]:
        return {
            "model_name": self._manifest.name,
            "model_version": str(self._manifest.version),
            "bundle_sha256": self._digest,
        }

    def _find(self, name: str) -> LayerStatistics:
        if name not in self.layers:
            raise NotFoundError(f"the model has no such batch-normalisation layer; it has {', '.join(self.layers)}")
        return self.layers[name]


def describe(layer: LayerStatistics, arrays: bool) -> dict[str, Any]:
    """One layer for JSON; see `BatchNormReport.whole`."""
    record = layer.record
    scale, shift = layer.affine
    columns: dict[str, Array] = {
        "gamma": layer.gamma,
        "beta": layer.beta,
        "moving_mean": layer.mean,
        "moving_variance": layer.variance,
        "s": scale,
        "t": shift,
    }
    said = record.model_dump(include={"name", "axis", "channels", "epsilon", "momentum", "center", "scale"})
    said["fold"] = record.model_dump(include={"status", "rules", "into", "residual", "conditioning"})
    said["tap"] = record.tap and {"tensor": record.tap.tensor, "axis": record.tap.axis}
    said["tap_reason"] = record.tap_reason
    said["dead_channels"] = {
        "gamma": np.flatnonzero(np.abs(layer.gamma) < WITHOUT_GAMMA).tolist(),
        "variance": np.flatnonzero(layer.variance < DEAD).tolist(),
    }
    if not arrays:
        return said | {"ranges": {name: _range(values) for name, values in columns.items()}}
    if record.tap:
        said["tap"] |= {"scale": record.tap.scale, "shift": record.tap.shift}
    return said | columns


def _range(values: Array) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}
