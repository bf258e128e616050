"""What is cheap where: the data by which the compiler chooses between exact forms."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from bnfold.errors import InputError

LARGEST_OFFSET = 100.0
"""Of |shift / scale|, wherever an affine is undone again: float32 loses as many digits as this has."""


@dataclass(frozen=True)
class Target:
    """What the compiler prefers when several exact forms are open to it."""

    name: str
    bare_shift: str
    """The operator for an affine that only shifts feature maps."""
    clamp: bool
    """Whether Max or Min may replace a ReLU to take an affine's place."""
    ones_channel: bool
    """Whether a convolution may emit a constant channel to carry a shift past zero padding."""
    duplicate: bool
    """Whether a convolution may be computed twice to take an affine in on one side."""
    least_saving: float = inf
    """Multiplications and additions per example that `CropUnread` or `WinogradRows` must save in one place."""


# ONNX Runtime's blocked layout (level "all") turns BatchNormalization and a channel-wise Mul into a depthwise 1x1
# convolution, but leaves an Add outside, between two reorders. Every choice is timed again, ort-cpu beside fewest-ops,
# by `python scripts/evaluate_fold.py speed NAME`: bare_shift and clamp with "densenet" and "bn as output", ones_channel
# with "conv relu bn same conv", duplicate with "conv output read twice"; least_saving by `python
# scripts/benchmark_fold.py`: a quarter of a million take some 5 µs an example, a crop's one operator as long a run, and
# the fifteen of Winograd's form 15 µs a run: it pays from a few examples on. The figures are in docs/folding.md.
TARGETS = {
    target.name: target
    for target in (
        Target("ort-cpu", bare_shift="BatchNormalization", clamp=False, ones_channel=False, duplicate=False),
        Target(
            "ort-cpu-winograd",
            bare_shift="BatchNormalization",
            clamp=False,
            ones_channel=False,
            duplicate=False,
            least_saving=250_000,
        ),
        Target("fewest-ops", bare_shift="Add", clamp=True, ones_channel=True, duplicate=True),
        Target("generic", bare_shift="Add", clamp=False, ones_channel=False, duplicate=False),
    )
}


def target_named(name: str) -> Target:
    """A target by its name; `InputError` if there is none."""
    if name not in TARGETS:
        raise InputError(f"target {name!r} is not known: choose one of {', '.join(TARGETS)}")
    return TARGETS[name]
