"""One training step: gather, augment, forward, backward, update, all in one compiled function."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from ImageUtils import DROPOUT, BatchPart, augment, batch_part, normalize, stream_seed
from Layers import dropout_stream
from Network import l2_kernels
from Optimization import Optimizer


def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order of the training images in one epoch (counted from 0), int32 ``[images]``."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    return generator.permutation(images).astype(np.int32)


def step_seed(seed: int, step: tf.Tensor | int) -> tf.Tensor:
    """The seed of one step, int64 ``[2]``."""
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])


def training_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    mean: tf.Tensor,
    seed: tf.Tensor,
    part: BatchPart,
    configs: dict,
    num_classes: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and labels as the network sees them in one step.

    Args:
        images: uint8 ``[P, H, W, C]``, the images at ``part.positions``.
        labels: int32 ``[P]``.
        mean: float32 ``[H, W, C]``.
        seed: of ``step_seed``.
        part: of ``ImageUtils.batch_part``.
        configs: the complete ``training_configs``.
        num_classes: K.

    Returns:
        float32 ``[B, H, W, C]`` and float32 ``[B, K]``.
    """
    images, labels = normalize(images, mean), tf.one_hot(labels, num_classes)
    images, labels = augment(images, labels, seed, configs, part)
    smoothing = configs["label_smoothing"]
    return images, labels * (1.0 - smoothing) + smoothing / num_classes


class TrainStep:
    """Holds the whole data set as one tensor and trains on the images whose indices it is given.

    All randomness is a pure function of (seed, step, place in the global batch).

    Args:
        network: images to logits.
        variables: what the optimizer updates.
        optimizer: of ``Optimization.make_optimizer``, for ``variables``.
        average: a network whose weights follow those of ``network``, or None.
        images: uint8 ``[N, H, W, C]``.
        labels: int32 ``[N]``.
        mean: float32 ``[H, W, C]``.
        seed: 0..2^31 - 1.
        configs: the complete ``training_configs``.
    """

    def __init__(
        self,
        network: keras.Model,
        variables: list[tf.Variable],
        optimizer: Optimizer,
        average: keras.Model | None,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        seed: int,
        configs: dict,
    ):
        self._network = network
        self._variables = variables
        self._decayed = {id(kernel.value) for kernel in l2_kernels(network)}
        self._optimizer = optimizer
        self._average = average
        self._images = tf.constant(images)
        self._labels = tf.constant(labels)
        self._mean = tf.constant(mean)
        self._seed = seed
        self._configs = configs
        self._strategy = tf.distribute.get_strategy()
        if self._strategy.num_replicas_in_sync != 1:
            raise ValueError(
                "strategy: expected one replica, found "
                f"{self._strategy.num_replicas_in_sync}; batch norm is not synchronized"
            )

    @tf.function(autograph=False)
    def run(self, order: tf.Tensor, position: tf.Tensor, step: tf.Tensor, rate: tf.Tensor):
        """Train on one global batch.

        Args:
            order: int32 ``[N]``, the epoch's permutation of the images.
            position: int32 scalar, place of the batch's first image in ``order``.
            step: int64 scalar, completed steps of the whole run.
            rate: float32 scalar, the learning rate.

        Returns:
            Mean loss (float32, without L2) and number of right answers (int32) of the batch as it
            was trained on; the second means nothing with mixup.
        """
        return self._strategy.run(self._step, (order, position, step, rate))

    def _step(self, order, position, step, rate):
        batch_size = self._configs["batch_size"]
        seed = step_seed(self._seed, step)
        part = batch_part(0, batch_size, batch_size, self._configs)
        indices = tf.gather(order, position + part.positions)
        images, labels = training_batch(
            tf.gather(self._images, indices),
            tf.gather(self._labels, indices),
            self._mean,
            seed,
            part,
            self._configs,
            self._network.output_shape[-1],
        )
        with tf.GradientTape() as tape:
            with dropout_stream(stream_seed(seed, DROPOUT)):
                logits = self._network(images, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses) / batch_size
        gradients = tape.gradient(loss, self._variables)
        self._optimizer.apply(self._with_l2(gradients), rate)
        self._move_average()
        right = tf.argmax(logits, axis=1) == tf.argmax(labels, axis=1)
        return loss, tf.math.count_nonzero(right, dtype=tf.int32)

    def _with_l2(self, gradients):
        """Add the gradient of l2 * sum(kernel^2): the update of L2 in the loss, for less work."""
        factor = 2 * self._configs["l2"]
        return [
            gradient + factor * variable if id(variable) in self._decayed else gradient
            for variable, gradient in zip(self._variables, gradients, strict=True)
        ]

    def _move_average(self):
        if self._average is None:
            return
        share = 1.0 - self._configs["ema_decay"]
        for shadow, variable in zip(self._average.weights, self._network.weights, strict=True):
            shadow.assign_sub(share * (shadow - variable))
