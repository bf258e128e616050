"""What a network is to learn, from a configuration: batches, loss and metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from scripts.datasets import Dataset
from scripts.training.batches import augmented, split
from scripts.training.config import TrainConfig
from scripts.training.distill import DistillationLoss, LabelledAccuracy, Pool, answers
from scripts.training.teacher import train_teachers


@dataclass(frozen=True)
class Objective:
    """What a network is to learn.

    Attributes:
        batches: from a seed to the training batches in an order of their own.
        held_out: validation pictures and targets.
        loss: of Keras.
        metrics: makes them anew for each network.
    """

    batches: Callable[[int], Any]
    held_out: tuple[Any, Any] | None
    loss: Any
    metrics: Callable[[], list[Any]]


def objective(config: TrainConfig, dataset: Dataset, folder: Path) -> Objective:
    """From labels alone, or from teachers, who are trained first."""
    (images, classes), validation = split(dataset, config.validation_split)
    if not config.distillation:

        def plain(seed: int) -> Any:
            return augmented(images, classes, config.model_copy(update={"seed": seed}), config.batch_size)

        return Objective(plain, validation, _loss(config), lambda: ["accuracy"])
    count = len(dataset.labels)
    pool = answers(train_teachers(config, dataset, folder), images, classes, config, count)
    # The validation targets have the training targets' layout; the label stands for the teachers' answer.
    held_out = validation and (validation[0], np.tile(np.eye(count, dtype=np.float32)[validation[1]], (1, 2)))
    loss = DistillationLoss(config.distillation.temperature, config.distillation.weight, count)
    return Objective(
        lambda seed: Pool(pool, config.batch_size, seed, config.epochs),
        held_out,
        loss,
        lambda: [LabelledAccuracy(count)],
    )


def _loss(config: TrainConfig) -> Any:
    if not config.label_smoothing:
        return "sparse_categorical_crossentropy"
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)
    return lambda classes, answer: smoothed(keras.ops.one_hot(classes, answer.shape[-1]), answer)
