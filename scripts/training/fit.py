"""From a configuration and a data set to a trained network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from scripts.datasets import Dataset
from scripts.training.batches import Images, augmented, split
from scripts.training.config import Augmentation, TrainConfig
from scripts.training.networks import FusedBatchNormalization, reference_network
from scripts.training.objective import Objective, objective
from scripts.training.optimizer import optimizer
from scripts.training.reestimate import reestimate


class StartError(Exception):
    """The network to start from cannot be used."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: plain Keras layers only: no dropout, no fused kernels, no optimizer.
        validation: `val_accuracy` and `val_loss` of this very network; empty without a validation split.
        interrupted: Ctrl-C ended the training; the network is the best one until then.
    """

    network: keras.Model
    validation: dict[str, float]
    interrupted: bool


def train(
    config: TrainConfig, dataset: Dataset, folder: Path, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> Trained:
    """Train the reference network as configured.

    Args:
        config: the run.
        dataset: raw pixels and classes.
        folder: where checkpoints are kept; a run that was broken off goes on from there.
        callbacks: further Keras callbacks (progress, history).

    Raises:
        StartError: the network to start from is missing or another one.
    """
    (images, classes), validation = split(dataset, config.validation_split)
    start = _start(config, dataset)
    aim: Objective | None = None
    weights, interrupted = [], False
    for number in range(1, config.networks + 1):
        own = config.model_copy(update={"seed": config.seed + number - 1})
        keras.utils.set_random_seed(own.seed)
        student = _network(own, dataset, dropout=own.dropout, layer=_layer(own))
        if start:
            student.set_weights(start.get_weights())
        path = folder / f"network-{number}.weights.h5"
        if path.exists():
            student.load_weights(path)
        else:
            aim = aim or objective(config, dataset, folder)  # once for all, and not if all are there
            interrupted = _fit(student, aim, own, folder, callbacks)
        if interrupted:
            weights = [student.get_weights()]
            break
        student.save_weights(path)
        weights.append(student.get_weights())
    network = _network(config, dataset)
    network.set_weights([np.mean(arrays, 0) for arrays in zip(*weights, strict=True)])
    if config.reestimate and not interrupted:
        plain = config.model_copy(update={"augmentation": Augmentation()})  # as pictures come that are served
        reestimate(network, augmented(images, classes, plain, config.batch_size).repeat().take(config.reestimate))
    figures = score(network.predict(validation[0], batch_size=1000, verbose=0), validation[1]) if validation else {}
    return Trained(network, {name.replace("test_", "val_"): value for name, value in figures.items()}, interrupted)


def _fit(
    network: keras.Model,
    aim: Objective,
    config: TrainConfig,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
) -> bool:
    """Train one network; True if Ctrl-C ended it, and then it is the best one until then."""
    batches = aim.batches(config.seed)
    steps = len(batches) * config.epochs
    network.compile(optimizer(config, config.learning_rate, steps), loss=aim.loss, metrics=aim.metrics())
    best = folder / "best.weights.h5"
    watched = "val_accuracy" if aim.held_out else "accuracy"
    try:
        network.fit(
            batches,
            epochs=config.epochs,
            validation_data=aim.held_out,
            validation_batch_size=1000,
            callbacks=[
                keras.callbacks.BackupAndRestore(str(folder / "checkpoint")),
                keras.callbacks.ModelCheckpoint(
                    str(best), watched, save_best_only=True, save_weights_only=True, mode="max"
                ),
                *callbacks,
            ],
            shuffle=False,  # The batches come shuffled.
            verbose=0,
        )
    except KeyboardInterrupt:
        if not best.exists():
            raise  # Not one epoch is done: there is nothing to keep.
        network.load_weights(best)
        return True
    return False


def score(probabilities: NDArray[np.float32], classes: Images) -> dict[str, float]:
    """`test_accuracy` and `test_loss` (mean cross entropy, nats) of predicted probabilities."""
    right = probabilities[np.arange(len(classes)), classes]
    return {
        "test_accuracy": float(np.mean(probabilities.argmax(1) == classes)),
        "test_loss": float(np.mean(-np.log(np.maximum(right.astype(np.float64), 1e-7)))),
    }


def _network(config: TrainConfig, dataset: Dataset, **options: Any) -> keras.Model:
    return reference_network(dataset.shape, len(dataset.labels), config.batchnorm, name=dataset.name, **options)


def _layer(config: TrainConfig) -> type:
    return FusedBatchNormalization if config.fused_training else keras.layers.BatchNormalization


def _start(config: TrainConfig, dataset: Dataset) -> keras.Model | None:
    if config.start is None:
        return None
    try:
        start = keras.models.load_model(config.start, compile=False)
    except (OSError, ValueError) as error:
        raise StartError(f"start: {config.start} is not a network that Keras can read: {error}") from None
    expected = [array.shape for array in _network(config, dataset).get_weights()]
    if [array.shape for array in start.get_weights()] != expected:
        raise StartError(f"start: {config.start} is another network than the one to be trained")
    return start
