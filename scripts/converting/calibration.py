"""Thresholds for drift, from held-out pictures that are like the training's.

The pictures are split in two at random. From one half come the expected moments and the thresholds; on windows of the
other half the false alarms are counted. How many there are depends on the split, since all windows of a half share it;
so the count is the mean over several splits, of which the first is the one that is kept. A data set's test part is not
used: it may come from other hands, as KMNIST's does, and is then not the training distribution.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors
from threadpoolctl import threadpool_limits

from bundle import DriftThresholds
from drift import LayerReference, Layout, calibrate, window_scores
from drift.thresholds import FEWEST
from scripts.converting.parity import Arrays

MOST = 8192  # pictures; more do not move the thresholds
MEMORY = 2**30  # bytes for the moments of every picture
SPLITS = 5
CHECK_WINDOWS = 2000
CHECK_SHARE = 4  # windows of the check are at most this part of their half, or they would all be the same


class Calibration(NamedTuple):
    """What a bundle keeps of it.

    Attributes:
        thresholds: for the manifest.
        file: `drift.safetensors`: the moments of the held-out pictures.
    """

    thresholds: DriftThresholds
    file: bytes


def picture_moments(probe: bytes, layout: Layout, inputs: Arrays) -> NDArray[np.float64]:
    """The moments of every picture by itself, float64 [N, length].

    Args:
        probe: the probe's ONNX file.
        layout: of its layers.
        inputs: the pictures, [N, …], by the name of the input.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order every time
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe, options, providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    values = np.ones((count, layout.length))
    for row in range(count):
        outputs = session.run(layout.outputs, {name: array[row : row + 1] for name, array in inputs.items()})
        values[row, 1:] = np.concatenate([np.ravel(output) for output in outputs])
    return values


def calibration(
    probe: bytes, layers: Mapping[str, LayerReference], inputs: Arrays, seed: int = 0
) -> Calibration | None:
    """Thresholds from held-out pictures.

    Args:
        probe: the probe's ONNX file.
        layers: that have a tap.
        inputs: held-out pictures, [N, …], by the name of the input.
        seed: of the split and the draws.

    Returns:
        None if there are fewer than 200 pictures, or nothing to watch.
    """
    layout = Layout.of({name: len(layer.mean) for name, layer in layers.items()})
    count = min(len(next(iter(inputs.values()))), MOST, MEMORY // (8 * layout.length))
    if not layers or count < 2 * FEWEST:
        return None
    order = np.random.default_rng(seed).permutation(len(next(iter(inputs.values()))))[:count]
    moments = picture_moments(probe, layout, {name: array[order] for name, array in inputs.items()})
    with threadpool_limits(1, "blas"):  # as above, and many small products are no quicker on several cores
        reference, thresholds = calibrate(dict(layers), moments[: count // 2], seed=seed)
        measured = false_alarms(layers, moments, thresholds.images, seed)
    assert reference.expected is not None
    kept = DriftThresholds(
        held_out=count // 2,
        images=thresholds.images,
        expected=thresholds.expected,
        limit=thresholds.limit,
        rate=thresholds.rate,
        measured=measured,
    )
    return Calibration(kept, save_tensors({k: np.asarray(v) for k, v in reference.expected.to_arrays().items()}))


def false_alarms(
    layers: Mapping[str, LayerReference], moments: NDArray[np.float64], sizes: Sequence[int], seed: int
) -> dict[int, float]:
    """Share of windows of one half of the pictures that exceed the limit from the other half, by the windows' size.

    Windows are drawn without replacement: pictures that come twice would make them more alike than fresh ones are.

    Args:
        layers: that have a tap.
        moments: float64 [N, length], of each picture by itself; the first split is in the middle.
        sizes: of windows; those of more than an eighth of the pictures are left out.
        seed: of the splits and the draws.
    """
    half, random = len(moments) // 2, np.random.default_rng(seed)
    sizes = [size for size in sizes if size * CHECK_SHARE <= half]
    alarms = np.zeros((SPLITS, len(sizes)))
    for split in range(SPLITS if sizes else 0):
        reference, thresholds = calibrate(
            dict(layers), moments[:half], sizes=sizes, windows=CHECK_WINDOWS, seed=seed + split
        )
        for column, (size, limit) in enumerate(zip(sizes, thresholds.limit, strict=True)):
            scores = window_scores(reference, moments[half:], size, CHECK_WINDOWS, random, replace=False)
            alarms[split, column] = np.mean(scores > limit)
        moments = random.permutation(moments)
    return {size: round(float(rate), 6) for size, rate in zip(sizes, alarms.mean(0), strict=True)}
