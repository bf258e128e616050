"""The statistics of the batch-normalisation layers: folded into the weights, but not lost."""

from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bundle import BatchNormRecord, Bundle, BundleError
from service.errors import LoadError
from service.protocol.tensors import Array

FILE = "batchnorm.safetensors"


def batchnorm_report(bundle: Bundle) -> dict[str, Any]:
    """Every layer of the manifest with its arrays, bit for bit, and the affine y = s·x + t that it is at inference.

    Raises:
        LoadError: the arrays are not there or do not fit the manifest.
    """
    manifest = bundle.manifest
    arrays: dict[str, Array] = {}
    if manifest.batchnorm:
        try:
            arrays = load_file(bundle.path(FILE))
        except (BundleError, OSError, ValueError) as error:
            raise LoadError(f"{bundle.folder / FILE}: not readable: {error}") from error
    return {
        "model_name": manifest.name,
        "model_version": str(manifest.version),
        "bundle_sha256": bundle.digest,
        "layers": [_layer(record, arrays, bundle) for record in manifest.batchnorm],
    }


def _layer(record: BatchNormRecord, arrays: dict[str, Array], bundle: Bundle) -> dict[str, Any]:
    def take(name: str, default: float | None = None) -> Array:
        array = arrays.get(f"{record.name}/{name}")
        if array is None and default is not None:
            return np.full(record.channels, default, np.float32)
        if array is None or array.shape != (record.channels,):
            raise LoadError(f"{bundle.folder / FILE}: {record.name}/{name} is not {record.channels} numbers")
        return array

    gamma = take("gamma", None if record.scale else 1.0)
    beta = take("beta", None if record.center else 0.0)
    mean, variance = take("moving_mean"), take("moving_variance")
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + record.epsilon)
    shift = beta.astype(np.float64) - scale * mean.astype(np.float64)
    described = record.model_dump(include={"name", "axis", "channels", "epsilon", "momentum", "center", "scale"})
    return described | {
        "gamma": gamma,
        "beta": beta,
        "moving_mean": mean,
        "moving_variance": variance,
        "s": scale,
        "t": shift,
        "fold": record.model_dump(include={"status", "rules", "into", "residual", "conditioning"}),
    }
