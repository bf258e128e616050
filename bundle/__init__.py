"""The bundle: one version of one model as a folder that proves itself.

The only thing that the scripts and the service share. Pure data and files: no heavy import here.
"""

from bundle.errors import BundleError
from bundle.files import MANIFEST, Bundle, open_bundle, write_bundle
from bundle.manifest import (
    BatchNormRecord,
    Certificate,
    DriftThresholds,
    GuardResult,
    Manifest,
    Recalibration,
    Tap,
    TensorSpec,
)

__all__ = [
    "MANIFEST",
    "BatchNormRecord",
    "Bundle",
    "BundleError",
    "Certificate",
    "DriftThresholds",
    "GuardResult",
    "Manifest",
    "Recalibration",
    "Tap",
    "TensorSpec",
    "open_bundle",
    "write_bundle",
]
