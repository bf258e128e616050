"""Learning the teachers' answers on augmented pictures."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from scripts.training.augment import augment
from scripts.training.config import TrainConfig


class Answers(NamedTuple):
    """Augmented copies of a training set with the teacher's answers.

    Attributes:
        images: uint8 [copies, n, height, width, 1].
        targets: float16 [copies, n, 2·classes]: the label as one-hot, then the mean of the teachers'
            probabilities.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.float16]


def answers(
    teachers: list[keras.Model], images: NDArray[np.uint8], classes: NDArray[np.uint8], config: TrainConfig, count: int
) -> Answers:
    """Ask the teachers about every augmented copy once, so that the student's epochs cost no more than plain ones."""
    recipe = config.distillation
    assert recipe is not None
    copies = min(recipe.copies, config.epochs)
    pictures = np.empty((copies, *images.shape), np.uint8)
    targets = np.empty((copies, len(images), 2 * count), np.float16)
    labels = np.eye(count, dtype=np.float32)[classes]
    whole = config.augmentation.model_copy(update={"cutout": 0})

    @tf.function  # type: ignore[untyped-decorator]
    def ask(batch: Any, label: Any, refine: bool) -> Any:
        plain = tf.cast(batch, tf.float32)
        changed = tf.round(augment(plain, whole if refine else config.augmentation))
        if refine:
            changed = tf.where(tf.random.uniform([tf.shape(plain)[0], 1, 1, 1]) < 0.5, plain, changed)
        said = tf.add_n([teacher(changed, training=False) for teacher in teachers]) / len(teachers)
        return tf.cast(changed, tf.uint8), tf.concat([label, said], -1)

    for copy in range(copies):
        refine = copy >= copies * (1 - recipe.refine)
        for start in range(0, len(images), 500):
            rows = slice(start, start + 500)
            changed, answer = ask(images[rows], labels[rows], refine)
            pictures[copy, rows] = changed.numpy()
            targets[copy, rows] = answer.numpy()
    return Answers(pictures, targets)


class Pool(keras.utils.PyDataset):  # type: ignore[misc]
    """One copy of the training set an epoch, shuffled, in turn, the last one at the end."""

    def __init__(self, answers: Answers, batch_size: int, seed: int, epochs: int) -> None:
        """Shuffle the first copy."""
        super().__init__()
        self._answers, self._batch_size = answers, batch_size
        self._random = np.random.default_rng(seed)
        self._epoch = -1 - epochs  # counted from the end
        self.on_epoch_end()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(int(self._answers.images.shape[1]) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Float32 pictures 0 to 255 and targets."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        copy = self._epoch % len(self._answers.images)
        return (
            self._answers.images[copy, rows].astype(np.float32),
            self._answers.targets[copy, rows].astype(np.float32),
        )

    def on_epoch_end(self) -> None:
        """Go to the next copy."""
        self._epoch += 1
        self._order = self._random.permutation(self._answers.images.shape[1])


class DistillationLoss(keras.losses.Loss):  # type: ignore[misc]
    """weight · T² · cross entropy with the teacher at temperature T + (1 - weight) · cross entropy with the label."""

    def __init__(self, temperature: float, weight: float, classes: int) -> None:
        """Targets are those of `Answers`."""
        super().__init__(name="distillation")
        self._temperature, self._weight, self._classes = temperature, weight, classes

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss per picture, float32 [batch]."""
        student = tf.math.log(tf.maximum(y_pred, 1e-7))
        teacher = tf.math.log(tf.maximum(y_true[:, self._classes :], 1e-7))
        softened = tf.nn.softmax(teacher / self._temperature)
        from_teacher = -tf.reduce_sum(softened * tf.nn.log_softmax(student / self._temperature), -1)
        from_label = -tf.reduce_sum(y_true[:, : self._classes] * student, -1)
        return self._weight * self._temperature**2 * from_teacher + (1 - self._weight) * from_label


class LabelledAccuracy(keras.metrics.MeanMetricWrapper):  # type: ignore[misc]
    """Share of pictures whose most probable class is the label, with targets as in `Answers`."""

    def __init__(self, classes: int) -> None:
        """The first `classes` columns of a target are the label."""

        def correct(y_true: Any, y_pred: Any) -> Any:
            return tf.equal(tf.argmax(y_true[:, :classes], -1), tf.argmax(y_pred, -1))

        super().__init__(correct, name="accuracy")
