"""Pure functions of a batch of images: normalize, augment, mixup.

A function never draws a random number itself: ``draw`` makes those of a whole step, one row for
each image of the global batch, and they are handed on as arguments. Whoever holds a part of the
batch takes the rows of its images, and gets what the whole batch would give.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

STREAMS = (
    *("flip", "crop_row", "crop_column", "mixup_gamma", "mixup_uniform", "dropout", "shift"),
    *("rotation", "colour", "pca", "noise", "cutout"),
)
"""What one step's seed is split into: each use of randomness has a stream of its own."""

PCA_CIFAR10 = (
    (0.23136, 0.08336, 0.02345),
    (0.23943, 0.00548, -0.04388),
    (0.24709, -0.08336, 0.02057),
)
"""Principal components (columns) of the RGB values of CIFAR-10's training images in [0, 1], each
as long as its standard deviation."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the grey of a pixel (ITU-R BT.601)."""


class Draws(NamedTuple):
    """The random numbers of a step, a row for each image; None where an augmentation is off."""

    flipped: tf.Tensor | None = None  # bool [B]
    rows: tf.Tensor | None = None  # int32 [B], 0 .. 2 * crop_pad
    columns: tf.Tensor | None = None  # int32 [B], 0 .. 2 * crop_pad
    shifts: tf.Tensor | None = None  # float32 [B, 2], pixels down and to the right
    angles: tf.Tensor | None = None  # float32 [B], radians
    colours: tf.Tensor | None = None  # float32 [B, 3], brightness, contrast, saturation around 0
    components: tf.Tensor | None = None  # float32 [B, 3], of PCA_CIFAR10
    noise: tf.Tensor | None = None  # float32 [B, H, W, C]
    centres: tf.Tensor | None = None  # int32 [B, 2], row and column of the square cut out
    weights: tf.Tensor | None = None  # float32 [B], of each image against the next

    def take(self, places: tf.Tensor) -> Draws:
        """Return the rows at ``places``, integers ``[P]``."""
        return Draws(*(None if rows is None else tf.gather(rows, places) for rows in self))


def draw(seed: tf.Tensor, batch_size: int, shape: tuple[int, int, int], configs: dict) -> Draws:
    """Draw the random numbers that ``augment`` needs for one step.

    Args:
        seed: integer ``[2]``, a fresh one for each step.
        batch_size: B, images in the global batch.
        shape: height, width and channels of an image.
        configs: the augmentation keys of Configure.py.

    Returns:
        ``Draws`` of B rows.
    """
    height, width, _ = shape
    pad, turn = configs["crop_pad"], math.radians(configs["rotation"])
    shift, colour = configs["shift"], configs["colour_jitter"]

    def uniform(stream, low, high, *more, dtype=tf.float32):
        size, key = [batch_size, *more], stream_seed(seed, stream)
        return tf.random.stateless_uniform(size, key, low, high, dtype, alg="philox")

    def normal(stream, deviation, *more):
        size, key = [batch_size, *more], stream_seed(seed, stream)
        return tf.random.stateless_normal(size, key, 0.0, deviation, alg="philox")

    return Draws(
        flipped=uniform("flip", 0.0, 1.0) < 0.5 if configs["flip"] else None,
        rows=uniform("crop_row", 0, 2 * pad + 1, dtype=tf.int32) if pad else None,
        columns=uniform("crop_column", 0, 2 * pad + 1, dtype=tf.int32) if pad else None,
        shifts=uniform("shift", -shift, shift, 2) * (height, width) if shift else None,
        angles=uniform("rotation", -turn, turn) if turn else None,
        colours=uniform("colour", -colour, colour, 3) if colour else None,
        components=normal("pca", configs["pca_jitter"], 3) if configs["pca_jitter"] else None,
        noise=normal("noise", configs["pixel_noise"], *shape) if configs["pixel_noise"] else None,
        centres=tf.cast(uniform("cutout", 0.0, 1.0, 2) * (height, width), tf.int32)
        if configs["cutout"]
        else None,
        weights=_beta(seed, configs["mixup_alpha"], batch_size) if configs["mixup_alpha"] else None,
    )


def stream_seed(seed: tf.Tensor, stream: str) -> tf.Tensor:
    """Return the seed of one of STREAMS: integer ``[2]`` below 2^31 in, int64 ``[2]`` out."""
    return tf.cast(seed, tf.int64) + tf.constant([STREAMS.index(stream) << 32, 0], tf.int64)


def _beta(seed, alpha, count):
    """Draw float32 ``[count]`` from Beta(alpha, alpha), a ratio of two gammas.

    Gamma(a) is Gamma(a + 1) U^(1/a) (Marsaglia and Tsang 2000, section 6), here in logarithms,
    because U^(1/a) underflows for a small a.
    """
    gamma = tf.random.stateless_gamma([count, 2], stream_seed(seed, "mixup_gamma"), alpha + 1.0)
    uniform = tf.random.stateless_uniform(
        [count, 2], stream_seed(seed, "mixup_uniform"), alg="philox"
    )
    logarithm = tf.math.log(gamma) + tf.math.log(1.0 - uniform) / alpha
    return tf.sigmoid(logarithm[:, 0] - logarithm[:, 1])


def pixel_mean(images: np.ndarray) -> np.ndarray:
    """Return the per-pixel mean of the training images, as the Keras example subtracts it.

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
    """
    return tf.cast(images, tf.float32) * (1.0 / 255.0) - mean


def views(images: tf.Tensor, configs: dict) -> list[tuple[float, tf.Tensor]]:
    """What of each image is measured or predicted, and with which weight.

    Args:
        images: float32 ``[B, H, W, C]``.
        configs: keys ``test_time_flip`` and ``test_time_shift`` of Configure.py.

    Returns:
        Weights, which add up to 1, and float32 ``[B, H, W, C]``.
    """
    found = [(1.0, images)]
    if configs["test_time_shift"]:
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        found = [(0.5, images), (0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:])]
    if configs["test_time_flip"]:
        found = [(w / 2, view) for w, seen in found for view in (seen, seen[:, :, ::-1])]
    return found


def augment(
    images: tf.Tensor, labels: tf.Tensor, mean: tf.Tensor, draws: Draws, configs: dict
) -> tuple[tf.Tensor, tf.Tensor]:
    """Change a training batch as far as ``configs`` asks for it; what is off costs nothing.

    Args:
        images: float32 ``[B, H, W, C]``, normalized, so that 0 is the mean colour.
        labels: float32 ``[B, K]``, one-hot.
        mean: float32 ``[H, W, C]``, what was subtracted.
        draws: of ``draw`` with the same ``configs``, the rows of these images.
        configs: the augmentation keys of Configure.py.

    Returns:
        float32 images and labels of the same shapes.
    """
    if configs["colour_jitter"]:  # before anything moves: the mean fits its pixels
        images = colour_jitter(images + mean, draws.colours) - mean
    if configs["flip"]:
        images = random_flip(images, draws.flipped)
    if configs["crop_pad"]:
        images = random_crop(
            images, draws.rows, draws.columns, configs["crop_pad"], configs["crop_mode"]
        )
    if configs["shift"]:
        images = random_shift(images, draws.shifts)
    if configs["rotation"]:
        images = random_rotation(images, draws.angles)
    if configs["pca_jitter"]:
        images = pca_jitter(images, draws.components)
    if configs["pixel_noise"]:
        images += draws.noise
    if configs["cutout"]:
        images = cutout(images, draws.centres, configs["cutout"])
    if configs["mixup_alpha"]:
        images, labels = mixup(images, labels, draws.weights)
    return images, labels


def shrink(images: tf.Tensor) -> tf.Tensor:
    """Make each side three quarters as long, between pixels (bilinear).

    Args:
        images: float32 ``[B, H, W, C]``, H and W multiples of 4.

    Returns:
        float32 ``[B, 3 H / 4, 3 W / 4, C]``.
    """
    return tf.image.resize(images, [3 * side // 4 for side in images.shape[1:3]])


def random_flip(images: tf.Tensor, flipped: tf.Tensor) -> tf.Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: ``[B, H, W, C]``, any type.
        flipped: bool ``[B]``.
    """
    return tf.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def random_crop(
    images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, pad: int, mode: str = "zero"
) -> tf.Tensor:
    """Pad each side and cut a window of the old size out of each image.

    Args:
        images: ``[B, H, W, C]``, any type.
        rows: int32 ``[B]``, 0..2 * pad, top row of each window; ``pad`` leaves an image in place.
        columns: int32 ``[B]``, 0..2 * pad, its left column.
        pad: pixels added on each side, 0 <= pad < min(H, W).
        mode: "zero", or "reflect" (mirrored, the edge not repeated).
    """
    _, height, width, channels = images.shape
    margins = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
    padded = tf.pad(images, margins, {"zero": "CONSTANT", "reflect": "REFLECT"}[mode])
    # One gather of pixels, numbered through all images, is several times as fast as B slices.
    first = tf.range(tf.shape(images)[0]) * padded.shape[1] + rows
    down = first[:, None] + tf.range(height)  # [B, H]
    across = columns[:, None] + tf.range(width)  # [B, W]
    pixels = down[:, :, None] * padded.shape[2] + across[:, None, :]  # [B, H, W]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)


def random_shift(images: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Move each image, as the Keras example does: between pixels, with the edge repeated.

    Args:
        images: float32 ``[B, H, W, C]``.
        shifts: float32 ``[B, 2]``, pixels down and to the right.
    """
    one, zero = tf.ones_like(shifts[:, 0]), tf.zeros_like(shifts[:, 0])
    return _warp(images, [one, zero, -shifts[:, 1], zero, one, -shifts[:, 0]])


def random_rotation(images: tf.Tensor, angles: tf.Tensor) -> tf.Tensor:
    """Turn each image about its centre, with the edge repeated.

    Args:
        images: float32 ``[B, H, W, C]``.
        angles: float32 ``[B]``, radians, counter-clockwise as the image is seen.
    """
    x, y = (images.shape[2] - 1) / 2, (images.shape[1] - 1) / 2
    cos, sin = tf.cos(angles), tf.sin(angles)
    return _warp(images, [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])


def _warp(images, matrix):
    """Take pixel (x, y) from (a x + b y + c, d x + e y + f), bilinear; ``matrix`` is a..f."""
    zero = tf.zeros_like(matrix[0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*matrix, zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def colour_jitter(images: tf.Tensor, colours: tf.Tensor) -> tf.Tensor:
    """Change brightness, contrast and saturation of each image.

    Args:
        images: float32 ``[B, H, W, 3]``, RGB in [0, 1].
        colours: float32 ``[B, 3]``: what is added to every value; by what share the distances from
            the image's mean colour grow; by what share those from each pixel's grey grow.
    """
    brightness, contrast, saturation = (
        part[:, None, None] for part in tf.split(colours, 3, axis=1)
    )
    mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    images = mean + (images - mean) * (1.0 + contrast)
    grey = tf.reduce_sum(images * LUMA, axis=3, keepdims=True)
    return grey + (images - grey) * (1.0 + saturation) + brightness


def pca_jitter(images: tf.Tensor, components: tf.Tensor) -> tf.Tensor:
    """Add a random mixture of the principal colours (AlexNet, Krizhevsky et al. 2012, 4.1).

    They are as long as their standard deviations, where the paper has the eigenvalues, which are
    their squares.

    Args:
        images: float32 ``[B, H, W, 3]``, normalized.
        components: float32 ``[B, 3]``, how much of each column of ``PCA_CIFAR10``.
    """
    return images + tf.matmul(components, PCA_CIFAR10, transpose_b=True)[:, None, None]


def cutout(images: tf.Tensor, centres: tf.Tensor, size: int) -> tf.Tensor:
    """Set a square of each image to 0, the mean colour (arXiv:1708.04552).

    Args:
        images: float32 ``[B, H, W, C]``, normalized.
        centres: int32 ``[B, 2]``, row and column; near an edge, a part of the square is outside.
        size: its side in pixels.
    """
    first = centres - size // 2

    def inside(axis):
        place = tf.range(images.shape[1 + axis]) - first[:, axis, None]
        return (place >= 0) & (place < size)

    cut = inside(0)[:, :, None] & inside(1)[:, None, :]  # [B, H, W]
    return tf.where(cut[..., None], 0.0, images)


def mixup(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image and its label with the next ones (arXiv:1710.09412, eq. 1).

    The batch is in random order, so neighbours are random pairs; the last is mixed with the first.

    Args:
        images: float32 ``[B, H, W, C]``.
        labels: float32 ``[B, K]``, one-hot.
        weights: float32 ``[B]`` in [0, 1], of each image against the next.
    """

    def mix(rows, weights):
        return rows * weights + tf.roll(rows, -1, axis=0) * (1.0 - weights)

    return mix(images, weights[:, None, None, None]), mix(labels, weights[:, None])
