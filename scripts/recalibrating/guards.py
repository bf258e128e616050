"""Guard rails: when new statistics must not be taken from these images.

Re-estimated statistics suppose that the images are like the training's but for how they were taken. Where they are not,
the result is worse than what it replaces, and without labels nobody would see it (NOTE, arXiv:2208.05117; SAR,
arXiv:2302.12400, show the same of adaptation at test time). Limits were chosen on KMNIST's validation split, see
docs/statistics.md.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bundle import GuardResult

Array = NDArray[np.float64]

FEWEST = 64  # images
CERTAINTY = 0.75  # of the mean entropy before
GUESSING = 0.25  # of the entropy of answers that favour no class
BALANCE = 0.45  # of the way from a single class to as many as balanced images have
MIXTURE = 0.8  # of the variance along the main direction explained by two groups; one normal group has 0.64
SMALLEST_GROUP = 0.1  # of the images; fewer are outliers, not a second kind


def enough(count: int) -> GuardResult:
    """There are enough images to measure on."""
    text = f"{count} images, at least {FEWEST} asked"
    return GuardResult(name="count", passed=count >= FEWEST, text=text)


def surer(before: Array, after: Array) -> GuardResult:
    """The renewed network is clearly surer of its answers, and not near guessing.

    Else there is nothing to gain, or something to lose: on images of one class the new statistics normalise away what
    the class is, and the answers become unsure; on images as in training, or turned ones, nothing gets better.

    Args:
        before: [n, classes], probabilities of the network as it is.
        after: the same of the renewed one.
    """
    old, new = entropy(before), entropy(after)
    limit = min(CERTAINTY * old, GUESSING * float(np.log(max(after.shape[1], 2))))
    text = (
        f"the mean entropy of the answers goes from {old:.3f} to {new:.3f} nats, at most {limit:.3f} asked: "
        "else there is nothing to gain, or the answers are near guessing"
    )
    return GuardResult(name="certainty", passed=new <= limit, text=text)


def balanced(before: Array, after: Array) -> GuardResult:
    """The predicted classes are not lopsided, by the answers of whichever network is surer of them.

    The network as it is may answer badly corrupted images of all classes with one; then the renewed one is surer. On
    images of one class it is the other way round.

    Args:
        before: [n, classes], probabilities of the network as it is.
        after: the same of the renewed one.
    """
    answers = before if entropy(before) <= entropy(after) else after
    count, classes = answers.shape
    found = effective_classes(np.bincount(answers.argmax(1), minlength=classes))
    draws = np.random.default_rng(0).multinomial(count, np.full(classes, 1 / classes), 200)
    full = float(np.mean([effective_classes(draw) for draw in draws]))
    asked = 1 + BALANCE * (full - 1)
    text = (
        f"the predicted classes are as varied as {found:.1f} equally frequent ones, "
        f"at least {asked:.1f} of {classes} asked"
    )
    return GuardResult(name="class balance", passed=found >= asked, text=text)


def one_kind(features: Mapping[str, Array]) -> GuardResult:
    """The images are of one kind, not a mixture of, say, sharp and blurred ones, whose common statistics fit neither.

    At each layer the images' means per channel are projected on their main direction and split in two groups where that
    explains most of the variance (Otsu's criterion, IEEE Trans. SMC 9(1), 1979).

    Args:
        features: [n, channels] by layer: mean of the layer's input over all positions of each image. Of the early
            layers, which see light and pen; the late ones see the classes, which are groups by right.
    """
    shares = {name: separation(values) for name, values in features.items()}
    name = max(shares, key=lambda layer: shares[layer])
    text = (
        f"two groups of images explain {shares[name]:.0%} of the variance at {name}, "
        f"less than {MIXTURE:.0%} asked: else they are a mixture"
    )
    return GuardResult(name="mixture", passed=shares[name] < MIXTURE, text=text)


def entropy(probabilities: Array) -> float:
    """Mean entropy of the rows, in nats."""
    return float(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(1).mean())


def effective_classes(counts: NDArray[np.int64]) -> float:
    """How many equally frequent classes are as varied: the exponential of the entropy of the frequencies."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def separation(features: Array) -> float:
    """The largest share of the variance along the main direction that a split in two groups explains, 0 to 1."""
    centred = features - features.mean(0)
    deviation = centred.std(0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    if len(features) < 2 or not strengths[0] > 1e-9 * max(float(deviation.max(initial=0.0)), 1e-30):
        return 0.0
    line = np.sort(centred @ directions[0])
    count, sums = len(line), np.cumsum(line)
    left = np.arange(1, count)
    means = sums[:-1] / left, (sums[-1] - sums[:-1]) / (count - left)
    between = left * (count - left) / count**2 * (means[0] - means[1]) ** 2
    large = np.minimum(left, count - left) >= SMALLEST_GROUP * count
    return float(between[large].max(initial=0.0) / line.var())
