"""Larger networks that are trained first, for their answers."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scripts.datasets import Dataset
from scripts.training.batches import augmented, split
from scripts.training.config import TrainConfig
from scripts.training.mixup import INPUT, blend, blending, mixture, unblended
from scripts.training.networks import teacher_network
from scripts.training.optimizer import optimizer
from scripts.training.progress import HistoryFile, ProgressBar
from scripts.training.reestimate import reestimate

# Half of the batches are blended at the input, a quarter behind the second pooling, a quarter behind the third.
_DEPTHS, _AFTER = (INPUT, INPUT, 1, 2), ("pool2", "pool3")


def train_teachers(config: TrainConfig, dataset: Dataset, folder: Path) -> list[keras.Model]:
    """The teachers for distillation.

    Each is kept as `teacher-<n>.keras` in the folder, so a resumed run does not train it again.
    """
    recipe = config.distillation
    assert recipe is not None
    return [_trained(config, dataset, folder, number) for number in range(1, recipe.teachers + 1)]


def _trained(config: TrainConfig, dataset: Dataset, folder: Path, number: int) -> keras.Model:
    path = folder / f"teacher-{number}.keras"
    recipe = config.distillation
    assert recipe is not None
    count = len(dataset.labels)
    keras.utils.set_random_seed(config.seed + number - 1)
    teacher = teacher_network(dataset.shape, count, recipe.precision)
    if path.exists():
        teacher.load_weights(path)
        return teacher
    (images, classes), validation = split(dataset, config.validation_split)
    own = config.model_copy(
        update={"seed": config.seed + number - 1, "optimizer": "adamw", "schedule": "cosine", "average": 0.999}
    )
    plain = augmented(images, classes, own, recipe.batch_size)
    depths, after = (_DEPTHS, _AFTER) if recipe.manifold else ((INPUT,), ())

    def blended(pictures: Any, labels: Any) -> Any:
        drawn = mixture(tf.shape(pictures)[0], recipe.mixup, depths)
        return (pictures, *drawn), blend(tf.one_hot(labels, count), drawn.own, drawn.partner)

    learner = blending(teacher, after)
    steps = -(-len(images) // recipe.batch_size)
    learner.compile(
        optimizer=optimizer(own, recipe.learning_rate, steps * recipe.epochs),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    learner.fit(
        plain.map(blended),
        epochs=recipe.epochs,
        validation_data=validation
        and ((validation[0], *unblended(len(validation[0]))), np.eye(count, dtype=np.float32)[validation[1]]),
        validation_batch_size=1000,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder / f"teacher-{number}-checkpoint")),
            HistoryFile(folder / f"teacher-{number}.csv"),
            ProgressBar(f"teacher {number}"),
        ],
        shuffle=False,
        verbose=0,
    )
    reestimate(teacher, plain.take(400))
    teacher.save(path)
    return teacher
