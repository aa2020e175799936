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
    rounding. Several replicas normalize by the statistics of the whole global batch.

    Input and output: float32 or bfloat16 ``[B, H, W, C]``.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalize by the batch's statistics when training, else by the moving ones."""
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if not training:
            statistics = (self.moving_mean, self.moving_variance)
            return _normalize(
                inputs, gamma, beta, *map(tf.convert_to_tensor, statistics), self.epsilon
            )
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync == 1:
            outputs, mean, variance = _normalize_batch(inputs, gamma, beta, self.epsilon)
        else:
            near = tf.convert_to_tensor(self.moving_mean)
            outputs, mean, variance = _normalize_global_batch(
                inputs, gamma, beta, near, self.epsilon, context
            )
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance)
        return outputs

    def _move(self, average, value):
        """Move this replica's copy of an average; every replica computes the same value."""
        moved = average * self.momentum + value * (1.0 - self.momentum)
        tf.raw_ops.AssignVariableOp(resource=average.value.handle, value=moved)


def _normalize(inputs, gamma, beta, mean, variance, epsilon):
    """Normalize by given statistics."""
    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _normalize_batch(inputs, gamma, beta, epsilon):
    """Normalize by the statistics of these images; also their mean and biased variance."""
    fused = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=tf.constant([], tf.float32),
        variance=tf.constant([], tf.float32),
        epsilon=epsilon,
        is_training=True,
    )
    count = tf.size(inputs) // inputs.shape[-1]
    # The kernel returns the unbiased variance (divided by count - 1); Keras averages the biased
    # one.
    bessel = tf.cast(count - 1, tf.float32) / tf.cast(count, tf.float32)
    return fused.y, fused.batch_mean, fused.batch_variance * bessel


def _normalize_global_batch(inputs, gamma, beta, near, epsilon, context):
    """``_normalize_batch`` for the images of all replicas, an equal number on each.

    Two sums of 2 C numbers go between the replicas: the statistics forward, and what they
    contribute to the gradient backward.

    Args:
        inputs: ``[B, H, W, C]``, this replica's.
        gamma: float32 ``[C]``.
        beta: float32 ``[C]``.
        near: float32 ``[C]``, the same on all replicas and not far from the mean: squares of
            differences from it do not cancel.
        epsilon: added to the variance.
        context: of this replica.
    """
    replicas = context.num_replicas_in_sync

    def mean_over_replicas(*vectors):
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat(vectors, 0))
        return tf.split(total / replicas, 2)

    @tf.custom_gradient
    def normalize(inputs, gamma, beta):
        _, mean, variance = _normalize_batch(
            inputs, tf.ones_like(gamma), tf.zeros_like(beta), epsilon
        )
        offset, square = mean_over_replicas(mean - near, variance + (mean - near) ** 2)
        mean, variance = near + offset, tf.maximum(square - offset**2, 0.0)

        def gradient(dy, *_):
            local = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=inputs,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.constant([], tf.float32),
                epsilon=epsilon,
                is_training=False,
            )
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            beta_mean, gamma_mean = mean_over_replicas(
                local.offset_backprop / count, local.scale_backprop / count
            )
            # Of dy, the part along the constant and the part along the normalized images have
            # no effect on the normalized output.
            scale = gamma * tf.math.rsqrt(variance + epsilon)
            without_effect = _normalize(
                inputs, scale * gamma_mean, scale * beta_mean, mean, variance, epsilon
            )
            dx = local.x_backprop - without_effect
            return dx, local.scale_backprop, local.offset_backprop

        outputs = _normalize(inputs, gamma, beta, mean, variance, epsilon)
        return (outputs, mean, variance), gradient

    return normalize(inputs, gamma, beta)


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
        if self.kernel_size == (1, 1) and self.strides != (1, 1) and inputs.shape[-1] < 16:
            # The same pixels by hand: for so few channels and an odd batch, oneDNN's kernel for
            # this convolution's gradient writes past its memory (TensorFlow 2.21).
            rows, columns = self.strides
            outputs = tf.nn.conv2d(inputs[:, ::rows, ::columns], self.kernel, 1, "VALID")
        else:
            outputs = self.convolution_op(inputs, self.kernel)
        return tf.nn.bias_add(outputs, bias if self.bias_gradient else tf.stop_gradient(bias))


def l2_kernels(network: keras.Model) -> list[keras.Variable]:
    """Return the kernels that the Keras example regularizes: of convolutions, not the dense one."""
    return [layer.kernel for layer in network.layers if isinstance(layer, Conv2D)]


def updated_variables(network: keras.Model) -> list[keras.Variable]:
    """Return what training changes by gradients: all but the biases before batch norms."""
    cancelled = {
        id(layer.bias)
        for layer in network.layers
        if isinstance(layer, Conv2D) and not layer.bias_gradient
    }
    return [v for v in network.trainable_variables if id(v) not in cancelled]


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
        """Drop a share ``rate`` of float ``[B, H, W, C]`` and scale the rest by 1/(1 - rate).

        The factor has the type of the inputs: 1.109 in bfloat16 for a tenth.
        """
        stream = _dropout_stream.get()
        if stream is None or not training or self.rate == 0:
            return super().call(inputs, training=training)
        seed, first = stream
        per_image = inputs.shape[1] * inputs.shape[2] * inputs.shape[3]
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
            seed=seed + tf.constant([0, self.seed << 32], tf.int64)
        )
        # A tick of Philox's counter makes four numbers; an image of 32 x 32 or 24 x 24 pixels has a
        # multiple of four here.
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
