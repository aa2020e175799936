"""Pure functions of a batch of images: normalize, flip, crop, mixup.

Randomness is a stream of numbers for each use (flip, crop, mixup), made by Philox from a seed:
number ``p`` depends on the seed and on ``p`` alone, where ``p`` is the image's place in the global
batch. Whoever holds a part of the batch passes a ``BatchPart`` and gets what the whole would give.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

FLIP, CROP_ROW, CROP_COLUMN, MIXUP_GAMMA, MIXUP_UNIFORM, DROPOUT = range(6)
"""Numbers of the streams that one step's seed is split into."""


class BatchPart(NamedTuple):
    """Which images of the global batch a function is given."""

    positions: tf.Tensor  # int32 [B], 0 <= position < batch_size
    batch_size: int


def pixel_mean(images: np.ndarray) -> np.ndarray:
    """Per-pixel mean of the training images, as the Keras example subtracts it.

    Args:
        images: uint8 ``[N, H, W, C]``.

    Returns:
        float32 ``[H, W, C]`` in [0, 1], from exact integer sums.
    """
    return (images.sum(axis=0, dtype=np.uint64) / (255.0 * len(images))).astype(np.float32)


def normalize(images: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Scale to [0, 1] and subtract the training mean; the one call of train, test and predict.

    Args:
        images: uint8 ``[B, H, W, C]``, 0..255.
        mean: float32 ``[H, W, C]`` of ``pixel_mean``.

    Returns:
        float32 ``[B, H, W, C]`` in [-1, 1].

    Raises:
        ValueError: the images are not uint8 (floats in [0, 1] would silently give nonsense).
    """
    if images.dtype != tf.uint8:
        raise ValueError(
            f"normalize: expected uint8 images in 0..255, found {tf.as_dtype(images.dtype).name}; "
            "convert images in [0, 1] with np.round(x * 255).astype(np.uint8)"
        )
    return tf.cast(images, tf.float32) * (1.0 / 255.0) - mean


def stream_seed(seed: tf.Tensor, stream: int) -> tf.Tensor:
    """The seed of one stream: integer ``[2]`` below 2^31 in, int64 ``[2]`` out."""
    return tf.cast(seed, tf.int64) + tf.constant([stream << 32, 0], tf.int64)


def random_flip(images: tf.Tensor, seed: tf.Tensor, part: BatchPart | None = None) -> tf.Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        images: ``[B, H, W, C]``, any type.
        seed: integer ``[2]``.
        part: which images these are; None for a whole batch.

    Returns:
        Images of the same shape and type.
    """
    flipped = _flipped(seed, images, part)[:, None, None, None]
    return tf.where(flipped, images[:, :, ::-1], images)


def random_crop(
    images: tf.Tensor,
    seed: tf.Tensor,
    pad: int = 4,
    mode: str = "zero",
    part: BatchPart | None = None,
    flip: bool = False,
) -> tf.Tensor:
    """Pad each side and cut a window of the old size, each image at its own random place.

    Args:
        images: ``[B, H, W, C]``, any type.
        seed: integer ``[2]``.
        pad: pixels added on each side, 0 <= pad < min(H, W).
        mode: "zero", or "reflect" (mirrored, the edge not repeated).
        part: which images these are; None for a whole batch.
        flip: do ``random_flip`` first, in the same pass over the images.

    Returns:
        Images of the same shape and type.

    Raises:
        ValueError: ``pad`` or ``mode`` outside its range.
    """
    _, height, width, channels = images.shape
    if not 0 <= pad < min(height, width) or mode not in ("zero", "reflect"):
        raise ValueError(
            f"random_crop: expected 0 <= pad < {min(height, width)} and mode zero or reflect, "
            f"found {pad} and {mode!r}"
        )
    margins = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
    padded = tf.pad(images, margins, "REFLECT" if mode == "reflect" else "CONSTANT")
    rows = _window(_uniform(seed, CROP_ROW, images, part), height, pad)
    columns = _window(_uniform(seed, CROP_COLUMN, images, part), width, pad)
    if flip:
        # A padded image that is mirrored is a mirrored image that is padded.
        flipped = _flipped(seed, images, part)[:, None]
        columns = tf.where(flipped, padded.shape[2] - 1 - columns, columns)
    rows += tf.range(tf.shape(images)[0])[:, None] * padded.shape[1]  # of all images in one
    pixels = rows[:, :, None] * padded.shape[2] + columns[:, None, :]  # [B, H, W]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)


def mixup(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    alpha: float,
    part: BatchPart | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Convex pairs of images and labels, weights from Beta(alpha, alpha) (arXiv:1710.09412, eq. 1).

    Each image has its own weight and is mixed with the next one of the batch; the batch is in
    random order, so neighbours are random pairs. A whole batch goes round: its last image is mixed
    with its first. A part must bring its last image's partner as one more row.

    Args:
        images: float32 ``[B, H, W, C]``.
        labels: float32 ``[B, K]``, one-hot.
        seed: integer ``[2]``.
        alpha: > 0; 1 is uniform, towards 0 one image of the pair outweighs the other.
        part: which images these are, the last row's partner included; None for a whole batch.

    Returns:
        Mixed images and labels: B rows of a whole batch, B - 1 of a part.
    """
    if part is None:
        count = images.shape[0]
        part = BatchPart(tf.range(count + 1) % count, count)
        images, labels = (tf.concat([rows, rows[:1]], axis=0) for rows in (images, labels))
    weights = tf.gather(_beta(seed, alpha, part.batch_size), part.positions[:-1])
    return (
        _mix(images, weights[:, None, None, None]),
        _mix(labels, weights[:, None]),
    )


def augment(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, configs: dict, part: BatchPart
) -> tuple[tf.Tensor, tf.Tensor]:
    """Flip, crop and mixup, as far as ``configs`` asks for them.

    Args:
        images: float32 ``[B, H, W, C]``, normalized, so that a zero pad is the mean colour.
        labels: float32 ``[B, K]``, one-hot.
        seed: integer ``[2]``, a fresh one for each step.
        configs: keys ``flip``, ``crop_pad``, ``crop_mode``, ``mixup_alpha`` of Configure.py.
        part: which images these are, from ``batch_part``.

    Returns:
        float32 images and labels; with mixup one row fewer, the partner of the last image.
    """
    flip, pad = configs["flip"], configs["crop_pad"]
    if pad:
        images = random_crop(images, seed, pad, configs["crop_mode"], part, flip)
    elif flip:
        images = random_flip(images, seed, part)
    if configs["mixup_alpha"]:
        images, labels = mixup(images, labels, seed, configs["mixup_alpha"], part)
    return images, labels


def batch_part(first: tf.Tensor | int, count: int, batch_size: int, configs: dict) -> BatchPart:
    """The images that ``augment`` needs to make ``count`` of them from ``first`` on.

    Args:
        first: integer scalar, place of the first image in the global batch.
        count: images wanted.
        batch_size: images in the global batch.
        configs: key ``mixup_alpha`` of Configure.py: above 0, one partner more is needed.
    """
    partner = 1 if configs["mixup_alpha"] else 0
    return BatchPart((first + tf.range(count + partner)) % batch_size, batch_size)


def _uniform(seed, stream, images, part):
    """float32 ``[B]`` in [0, 1): one number of the stream for each image."""
    seed = stream_seed(seed, stream)
    if part is None:
        return tf.random.stateless_uniform([tf.shape(images)[0]], seed, alg="philox")
    whole = tf.random.stateless_uniform([part.batch_size], seed, alg="philox")
    return tf.gather(whole, part.positions)


def _flipped(seed, images, part):
    """Which images are mirrored, bool ``[B]``."""
    return _uniform(seed, FLIP, images, part) < 0.5


def _window(uniform, size, pad):
    """int32 ``[B, size]``: where in the padded image each pixel of a window is."""
    return tf.cast(uniform * (2 * pad + 1), tf.int32)[:, None] + tf.range(size)


def _beta(seed, alpha, count):
    """float32 ``[count]`` from Beta(alpha, alpha), a ratio of two gammas.

    Gamma(a) is Gamma(a + 1) U^(1/a) (Marsaglia and Tsang 2000, section 6), here in logarithms,
    because U^(1/a) underflows for a small a.
    """
    gamma = tf.random.stateless_gamma([count, 2], stream_seed(seed, MIXUP_GAMMA), alpha + 1.0)
    uniform = tf.random.stateless_uniform(
        [count, 2], stream_seed(seed, MIXUP_UNIFORM), alg="philox"
    )
    logarithm = tf.math.log(gamma) + tf.math.log(1.0 - uniform) / alpha
    return tf.sigmoid(logarithm[:, 0] - logarithm[:, 1])


def _mix(rows, weights):
    return rows[:-1] * weights + rows[1:] * (1.0 - weights)
