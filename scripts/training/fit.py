"""From a configuration and a data set to a trained network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from scripts.datasets import Dataset
from scripts.training.augment import augment, blend
from scripts.training.config import Augmentation, TrainConfig
from scripts.training.distill import DistillationLoss, LabelledAccuracy, Pool, answers
from scripts.training.networks import FusedBatchNormalization, reference_network, teacher_network
from scripts.training.progress import HistoryFile, ProgressBar

Images = NDArray[np.uint8]


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


def split(dataset: Dataset, share: float) -> tuple[tuple[Images, Images], tuple[Images, Images] | None]:
    """Training and validation parts; the validation part is the end of the training set, as Keras takes it."""
    count = len(dataset.x_train) - int(len(dataset.x_train) * share)
    training = dataset.x_train[:count], dataset.y_train[:count]
    return training, ((dataset.x_train[count:], dataset.y_train[count:]) if share else None)


def train(
    config: TrainConfig, dataset: Dataset, folder: Path, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> Trained:
    """Train the reference network as configured.

    Args:
        config: the run.
        dataset: raw pixels and classes.
        folder: where checkpoints are kept; a run that was broken off goes on from there.
        callbacks: further Keras callbacks (progress, history).
    """
    keras.utils.set_random_seed(config.seed)
    (images, classes), validation = split(dataset, config.validation_split)
    layer = FusedBatchNormalization if config.fused_training else keras.layers.BatchNormalization
    student = _network(config, dataset, dropout=config.dropout, layer=layer)
    batches, held_out, loss, metrics = _objective(config, dataset, folder)
    steps = -(-len(images) // config.batch_size)
    student.compile(_optimizer(config, config.learning_rate, steps * config.epochs), loss=loss, metrics=metrics)
    best = folder / "best.weights.h5"
    watched = "val_accuracy" if validation else "accuracy"
    interrupted = False
    try:
        student.fit(
            batches,
            epochs=config.epochs,
            validation_data=held_out,
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
        interrupted = True
        student.load_weights(best)
    network = _network(config, dataset)
    network.set_weights(student.get_weights())
    if config.reestimate and not interrupted:
        reestimate(network, augmented(images, classes, config, config.batch_size).repeat().take(config.reestimate))
    figures = score(network.predict(validation[0], batch_size=1000, verbose=0), validation[1]) if validation else {}
    return Trained(network, {name.replace("test_", "val_"): value for name, value in figures.items()}, interrupted)


def score(probabilities: NDArray[np.float32], classes: Images) -> dict[str, float]:
    """`test_accuracy` and `test_loss` (mean cross entropy, nats) of predicted probabilities."""
    right = probabilities[np.arange(len(classes)), classes]
    return {
        "test_accuracy": float(np.mean(probabilities.argmax(1) == classes)),
        "test_loss": float(np.mean(-np.log(np.maximum(right.astype(np.float64), 1e-7)))),
    }


def _network(config: TrainConfig, dataset: Dataset, **options: Any) -> keras.Model:
    return reference_network(dataset.shape, len(dataset.labels), config.batchnorm, name=dataset.name, **options)


def _objective(config: TrainConfig, dataset: Dataset, folder: Path) -> tuple[Any, Any, Any, list[Any]]:
    """Training batches, validation data, loss and metrics: from labels alone or from a teacher as well."""
    (images, classes), validation = split(dataset, config.validation_split)
    if not config.distillation:
        return augmented(images, classes, config, config.batch_size), validation, _loss(config), ["accuracy"]
    count = len(dataset.labels)
    teacher = train_teacher(config, dataset, folder)
    batches = Pool(answers(teacher, images, classes, config, count), config.batch_size, config.seed)
    # The validation targets have the training targets' layout; the label stands for the teacher's answer.
    held_out = validation and (validation[0], np.tile(np.eye(count, dtype=np.float32)[validation[1]], (1, 2)))
    loss = DistillationLoss(config.distillation.temperature, config.distillation.weight, count)
    return batches, held_out, loss, [LabelledAccuracy(count)]


def train_teacher(config: TrainConfig, dataset: Dataset, folder: Path) -> keras.Model:
    """The teacher for distillation; kept as `teacher.keras` in the folder, so a resumed run does not train it again."""
    path = folder / "teacher.keras"
    recipe = config.distillation
    assert recipe is not None
    count = len(dataset.labels)
    teacher = teacher_network(dataset.shape, count, recipe.precision)
    if path.exists():
        teacher.load_weights(path)
        return teacher
    (images, classes), validation = split(dataset, config.validation_split)
    steps = -(-len(images) // recipe.batch_size)
    slanted = config.model_copy(update={"optimizer": "adamw", "schedule": "cosine", "average": 0.999})
    teacher.compile(
        optimizer=_optimizer(slanted, recipe.learning_rate, steps * recipe.epochs),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    batches = augmented(images, classes, config, recipe.batch_size)
    batches = batches.map(lambda pictures, labels: blend(pictures, tf.one_hot(labels, count), recipe.mixup))
    teacher.fit(
        batches,
        epochs=recipe.epochs,
        validation_data=validation and (validation[0], np.eye(count, dtype=np.float32)[validation[1]]),
        validation_batch_size=1000,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder / "teacher-checkpoint")),
            HistoryFile(folder / "teacher.csv"),
            ProgressBar("teacher"),
        ],
        shuffle=False,
        verbose=0,
    )
    reestimate(teacher, batches.take(400))
    teacher.save(path)
    return teacher


def augmented(images: Images, classes: Images, config: TrainConfig, batch_size: int) -> Any:
    """Shuffled batches: float32 pictures 0 to 255, changed as configured, and classes."""
    batches = tf.data.Dataset.from_tensor_slices((images, classes)).shuffle(len(images), seed=config.seed)
    batches = batches.batch(batch_size)
    if config.augmentation == Augmentation():
        return batches.map(lambda pictures, labels: (tf.cast(pictures, tf.float32), labels)).prefetch(4)

    def change(pictures: Any, labels: Any) -> Any:
        return augment(tf.cast(pictures, tf.float32), config.augmentation), labels

    return batches.map(change, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4)


def reestimate(network: keras.Model, batches: Any) -> None:
    """Replace the moving statistics by the plain average over batches, all layers at once.

    What stochastic weight averaging does after averaging the weights (Izmailov et al., arXiv:1803.05407).
    """
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for number, (pictures, _) in enumerate(batches):
        for layer in norms:
            layer.momentum = number / (number + 1)
        network(pictures, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def _loss(config: TrainConfig) -> Any:
    if not config.label_smoothing:
        return "sparse_categorical_crossentropy"
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)
    return lambda classes, answer: smoothed(keras.ops.one_hot(classes, answer.shape[-1]), answer)


def _optimizer(config: TrainConfig, rate: float, steps: int) -> Any:
    schedule: Any = rate
    if config.schedule == "cosine":
        warm = int(steps * config.warmup)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0 if warm else rate, steps - warm, alpha=0.001, warmup_target=rate if warm else None, warmup_steps=warm
        )
    common = {"use_ema": bool(config.average), "ema_momentum": config.average or 0.99}
    if config.optimizer == "adam":
        return keras.optimizers.Adam(schedule, **common)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, **common)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
