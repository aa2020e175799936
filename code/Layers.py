"""The three layers that Keras 3 leaves slow or inexact on TensorFlow, with Keras's variables."""

from __future__ import annotations

import contextlib
import contextvars

import keras
import tensorflow as tf


class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` over the last axis, on TensorFlow's fused kernel.

    Keras 3 composes the layer of a dozen small operations; the kernel does the same in one pass
    forward and one backward, and takes bfloat16 images with float32 scale, offset and statistics.
    Variables, results, gradients and moving statistics are those of the stock layer, to float32
    rounding.

    Input and output: float32 or bfloat16 ``[B, H, W, C]``.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalize by the batch's statistics when training, else by the moving ones."""
        if not training:
            return self._fused(inputs, self.moving_mean, self.moving_variance, False).y
        fused = self._fused(inputs, (), (), True)
        count = tf.size(inputs) // inputs.shape[-1]
        # The kernel returns the unbiased variance (divided by count - 1); Keras averages the
        # biased one.
        bessel = tf.cast(count - 1, tf.float32) / tf.cast(count, tf.float32)
        self._move(self.moving_mean, fused.batch_mean)
        self._move(self.moving_variance, fused.batch_variance * bessel)
        return fused.y

    def _fused(self, inputs, mean, variance, is_training):
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.convert_to_tensor(mean, tf.float32),
            variance=tf.convert_to_tensor(variance, tf.float32),
            epsilon=self.epsilon,
            is_training=is_training,
        )

    def _move(self, average, value):
        average.assign(average * self.momentum + value * (1.0 - self.momentum))


class Conv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D`` that can leave out the work for a bias that batch norm cancels.

    Batch norm subtracts the bias right before it again: its gradient is zero but for rounding,
    which Adam would blow up into a random walk. Leaving it out is exact, and saves a pass over the
    gradient of every image. The variable stays, so that weights trained elsewhere fit.

    Args:
        bias_gradient: False if a batch norm follows.
    """

    def __init__(self, *args, bias_gradient: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        self.bias_gradient = bias_gradient

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolve float ``[B, H, W, C]`` and add the bias."""
        bias = tf.convert_to_tensor(self.bias)
        outputs = self.convolution_op(inputs, self.kernel)
        return tf.nn.bias_add(outputs, bias if self.bias_gradient else tf.stop_gradient(bias))


_dropout_stream: contextvars.ContextVar = contextvars.ContextVar("dropout_stream", default=None)


@contextlib.contextmanager
def dropout_stream(seed: tf.Tensor, first: tf.Tensor | int = 0):
    """Within this context, ``Dropout`` draws from a stream instead of from Keras's own state.

    Args:
        seed: int64 ``[2]``, the seed of this step.
        first: integer scalar, the place of the batch's first image in the global batch.
    """
    token = _dropout_stream.set((seed, first))
    try:
        yield
    finally:
        _dropout_stream.reset(token)


class Dropout(keras.layers.Dropout):
    """Inverted dropout whose mask is a pure function of (seed, place in the global batch).

    Philox is a counter: image ``i`` of the global batch takes the same numbers of the stream
    wherever it is computed, so several replicas drop what one would. Outside a ``dropout_stream``
    it is ``keras.layers.Dropout``.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop a share ``rate`` of float ``[B, H, W, C]`` and scale the rest by 1/(1 - rate)."""
        stream = _dropout_stream.get()
        if stream is None or not training or self.rate == 0:
            return super().call(inputs, training=training)
        seed, first = stream
        per_image = inputs.shape[1] * inputs.shape[2] * inputs.shape[3]
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
            seed=seed + tf.constant([0, self.seed << 32], tf.int64)
        )
        # A tick of Philox's counter makes four numbers; an image has a multiple of four here.
        ticks = tf.cast(first, tf.uint64) * tf.constant(per_image // 4, tf.uint64)
        uniform = tf.raw_ops.StatelessRandomUniformV2(
            shape=tf.shape(inputs),
            key=key,
            counter=counter + tf.stack([ticks, tf.zeros_like(ticks)]),
            alg=1,
            dtype=tf.float32,
        )
        kept = tf.cast(uniform >= self.rate, inputs.dtype)
        return inputs * kept * tf.cast(1.0 / (1.0 - self.rate), inputs.dtype)
