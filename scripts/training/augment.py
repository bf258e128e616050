"""Random changes of handwriting style, as one warp of the pixel grid and one change of the ink.

An affine map (rotation, scale, shear, shift) and a smooth elastic displacement (Simard, Steinkraus & Platt,
ICDAR 2003) are summed into one displacement field and sampled once, bilinearly, so a picture is blurred only
once. Then the stroke is made thinner or thicker, the contrast changes, and a square may be cut out
(DeVries & Taylor, arXiv:1708.04552).
"""

from typing import Any

import tensorflow as tf

from scripts.training.config import Augmentation

Tensor = Any  # TensorFlow ships no types that a strict checker accepts.


def augment(images: Tensor, limits: Augmentation) -> Tensor:
    """Change a batch of pictures, each in its own way.

    Args:
        images: float32 [batch, height, width, 1], 0 to 255.
        limits: how far.

    Returns:
        float32 of the same shape, 0 to 255.
    """
    images = _sample(images, _displacement(images, limits))
    if limits.stroke:
        images = _change_stroke(images, limits.stroke)
    if limits.contrast:
        gamma = tf.exp(_uniform(tf.shape(images)[0], limits.contrast))
        images = 255.0 * tf.pow(tf.clip_by_value(images / 255.0, 0.0, 1.0), gamma[:, None, None, None])
    if limits.cutout:
        images = _cut_out(images, limits.cutout, limits.cutout_probability)
    return images


def _uniform(batch: Tensor, limit: float) -> Tensor:
    return tf.random.uniform([batch], -limit, limit)


def _displacement(images: Tensor, limits: Augmentation) -> Tensor:
    """Where each output pixel reads from: float32 [batch, height, width, 2], as (row, column)."""
    batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    angle = _uniform(batch, limits.rotate * 3.141592653589793 / 180.0)
    scale_y, scale_x = tf.exp(_uniform(batch, limits.scale)), tf.exp(_uniform(batch, limits.scale))
    shear_y, shear_x = _uniform(batch, limits.shear), _uniform(batch, limits.shear)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Output to input: rotate, then shear, then scale, about the centre.
    matrix = tf.stack(
        [
            tf.stack([scale_y * (cos + shear_y * sin), scale_y * (shear_y * cos - sin)], -1),
            tf.stack([scale_x * (shear_x * cos + sin), scale_x * (cos - shear_x * sin)], -1),
        ],
        axis=1,
    )
    centre = tf.constant([(height - 1) / 2.0, (width - 1) / 2.0])
    grid = tf.stack(tf.meshgrid(tf.range(float(height)), tf.range(float(width)), indexing="ij"), axis=-1)
    flat = tf.reshape(grid - centre, [1, height * width, 2])
    shift = tf.random.uniform([batch, 1, 2], -limits.shift, limits.shift)
    warped = tf.reshape(tf.matmul(flat, matrix, transpose_b=True) + shift, [-1, height, width, 2]) + centre
    if limits.elastic:
        points = limits.elastic_grid
        coarse = tf.random.normal([batch, points, points, 2], stddev=limits.elastic)
        warped += tf.image.resize(coarse, [height, width], method="bicubic")
    return warped


def _sample(images: Tensor, where: Tensor) -> Tensor:
    """Bilinear samples of the pictures; what lies outside is empty (0)."""
    height, width = images.shape[1], images.shape[2]
    padded = tf.pad(images[..., 0], [[0, 0], [1, 1], [1, 1]])
    flat = tf.reshape(padded, [tf.shape(images)[0], (height + 2) * (width + 2)])
    row = tf.clip_by_value(where[..., 0] + 1.0, 0.0, height + 0.999)
    column = tf.clip_by_value(where[..., 1] + 1.0, 0.0, width + 0.999)
    top, left = tf.floor(row), tf.floor(column)
    down, right = row - top, column - left
    index = tf.cast(top, tf.int32) * (width + 2) + tf.cast(left, tf.int32)

    def at(offset: int) -> Tensor:
        return tf.gather(flat, index + offset, batch_dims=1)

    upper = at(0) * (1 - right) + at(1) * right
    lower = at(width + 2) * (1 - right) + at(width + 3) * right
    return (upper * (1 - down) + lower * down)[..., None]


def _change_stroke(images: Tensor, strength: float) -> Tensor:
    """Blend with the dilated (thicker) or eroded (thinner) picture, by a random amount."""
    amount = _uniform(tf.shape(images)[0], strength)[:, None, None, None]
    thick = tf.nn.max_pool2d(images, 3, 1, "SAME")
    thin = -tf.nn.max_pool2d(-images, 3, 1, "SAME")
    return images + tf.maximum(amount, 0.0) * (thick - images) + tf.maximum(-amount, 0.0) * (thin - images)


def _cut_out(images: Tensor, side: int, probability: float) -> Tensor:
    """Empty a square that may hang over the border."""
    batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    top = tf.random.uniform([batch, 1, 1, 1], -side // 2, height - side // 2, tf.int32)
    left = tf.random.uniform([batch, 1, 1, 1], -side // 2, width - side // 2, tf.int32)
    rows, columns = tf.range(height)[None, :, None, None], tf.range(width)[None, None, :, None]
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    chosen = tf.random.uniform([batch, 1, 1, 1]) < probability
    return tf.where(inside & chosen, 0.0, images)
