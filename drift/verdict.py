"""What a score means, in plain words.

With enough traffic any difference is significant, so significance alone says little: KMNIST's own test set, from other
hands, is told from its training set within a few hundred pictures. The verdict is therefore graded by the *effect*, the
score beyond what a window of that size has by chance: below the limit `none`, above it `mild`, and `strong` from 0.1
nats a channel, which is as if every channel's mean had moved by a third of its deviation.
"""

from dataclasses import dataclass
from typing import Literal

from drift.thresholds import Thresholds

Grade = Literal["not calibrated", "too few", "none", "mild", "strong"]
STRONG = 0.1  # nats


@dataclass(frozen=True)
class Verdict:
    """What is to be thought of one window.

    Attributes:
        grade: in two words or fewer.
        text: a sentence for a person.
        images: in the window.
        score: of the window; None if it has too few images.
        limit: that a share `rate` of windows without drift exceeds; None without thresholds or with too few images.
        effect: score beyond the expected one, at least 0; None as `limit`.
    """

    grade: Grade
    text: str
    images: int
    score: float | None = None
    limit: float | None = None
    effect: float | None = None


def judge(score: float, images: int, thresholds: Thresholds | None, *, fewest: int = 32) -> Verdict:
    """The verdict on a window.

    Args:
        score: of the whole model.
        images: in the window.
        thresholds: by size; None if the model was exported without held-out data.
        fewest: images below which nothing is said, where there are no thresholds to say it.
    """
    fewest = thresholds.images[0] if thresholds else fewest
    if images < fewest:
        return Verdict("too few", f"{images} images are too few for a verdict; {fewest} are needed.", images)
    if thresholds is None:
        text = "The model was exported without held-out data, so there is no threshold; the score alone says little."
        return Verdict("not calibrated", text, images, score)
    expected, limit = thresholds.at(images)
    effect = max(score - expected, 0.0)
    if score <= limit:
        grade: Grade = "none"
        text = f"No drift: the last {images} images are like the training data, as far as the layers can tell."
    elif effect < STRONG:
        grade = "mild"
        text = (
            f"Mild drift: the last {images} images differ from the training data by more than chance, but little. "
            "Other writers or another camera look like this; accuracy may be somewhat lower."
        )
    else:
        grade = "strong"
        text = (
            f"Strong drift: the last {images} images are unlike the training data. "
            "The model was not made for them: check some answers before you trust the rest."
        )
    return Verdict(grade, text, images, score, limit, effect)
