"""The training set in parts and in batches."""

import os
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from scripts.datasets import Dataset
from scripts.training.augment import augment
from scripts.training.config import Augmentation, TrainConfig

Images = NDArray[np.uint8]


def split(dataset: Dataset, share: float) -> tuple[tuple[Images, Images], tuple[Images, Images] | None]:
    """Training and validation parts; the validation part is the end of the training set, as Keras takes it."""
    count = len(dataset.x_train) - int(len(dataset.x_train) * share)
    training = dataset.x_train[:count], dataset.y_train[:count]
    return training, ((dataset.x_train[count:], dataset.y_train[count:]) if share else None)


def augmented(images: Images, classes: Images, config: TrainConfig, batch_size: int) -> Any:
    """Shuffled batches: float32 pictures 0 to 255, changed as configured, and classes."""
    batches = tf.data.Dataset.from_tensor_slices((images, classes)).shuffle(len(images), seed=config.seed)
    batches = batches.batch(batch_size).with_options(_options())
    if config.augmentation == Augmentation():
        return batches.map(lambda pictures, labels: (tf.cast(pictures, tf.float32), labels)).prefetch(4)

    def change(pictures: Any, labels: Any) -> Any:
        return augment(tf.cast(pictures, tf.float32), config.augmentation), labels

    return batches.map(change, num_parallel_calls=os.cpu_count()).prefetch(4)


def _options() -> Any:
    """Fixed buffers and threads: tf.data's tuner may leave a pipeline waiting for its next round, a minute long."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
