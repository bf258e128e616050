"""Drift: how far the statistics that reach the batch-normalisation layers are from those expected there.

Pure numpy: no HTTP, no ONNX, no files. The service watches traffic with it, the scripts calibrate with it.
"""

from drift.comparison import ChannelDrift, LayerReference, Reference, divergence, mean_and_variance
from drift.moments import Layout, Moments
from drift.thresholds import Thresholds, calibrate, window_scores
from drift.verdict import Verdict, judge

__all__ = [
    "ChannelDrift",
    "LayerReference",
    "Layout",
    "Moments",
    "Reference",
    "Thresholds",
    "Verdict",
    "calibrate",
    "divergence",
    "judge",
    "mean_and_variance",
    "window_scores",
]
