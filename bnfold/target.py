"""What is cheap where: the data by which the compiler chooses between exact forms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What the compiler prefers when several exact forms are open to it."""

    name: str
    bare_shift: str
    """The operator for an affine that only shifts feature maps."""


# ONNX Runtime's blocked layout (level "all") turns BatchNormalization and a channel-wise Mul into a depthwise 1x1
# convolution, but leaves an Add outside, between two reorders.
TARGETS = {
    target.name: target
    for target in (
        Target("ort-cpu", bare_shift="BatchNormalization"),
        Target("fewest-ops", bare_shift="Add"),
        Target("generic", bare_shift="Add"),
    )
}
