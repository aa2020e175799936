"""Training steps: gather, augment, forward, backward, update, all in one compiled function."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf

from ImageUtils import Draws, augment, draw, normalize, shrink, stream_seed
from training.layers import dropout_stream, l2_kernels, updated_variables
from training.optimizers import Optimizer


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """Return the order of the images in one epoch (counted from 0), int32 ``[num_images]``."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    return generator.permutation(num_images).astype(np.int32)


def step_seed(seed: int, step: tf.Tensor | int) -> tf.Tensor:
    """Return the seed of one step, int64 ``[2]``."""
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])


def training_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    mean: tf.Tensor,
    draws: Draws,
    configs: dict,
    num_classes: int,
    small: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return images and labels as the network sees them in one step.

    Args:
        images: uint8 ``[B, H, W, C]``.
        labels: int32 ``[B]``.
        mean: float32 ``[H, W, C]``.
        draws: of ``ImageUtils.draw``, the rows of these images.
        configs: the complete ``training_configs``.
        num_classes: K.
        small: shrink them, at the end.

    Returns:
        float32 ``[B, H, W, C]``, or what ``shrink`` makes of them, and float32 ``[B, K]``.
    """
    images, labels = normalize(images, mean), tf.one_hot(labels, num_classes)
    images, labels = augment(images, labels, mean, draws, configs)
    if small:
        images = shrink(images)
    smoothing = configs["label_smoothing"]
    return images, labels * (1.0 - smoothing) + smoothing / num_classes


class TrainStep:
    """Holds the whole data set in memory and trains on the images whose indices it is given.

    All randomness is a pure function of (seed, step, place in the global batch), and each replica
    of the strategy takes an equal part of the global batch: any number of them train alike.

    Args:
        network: images to logits, made in the strategy's scope.
        images: uint8 ``[N, H, W, C]``.
        labels: int32 ``[N]``.
        mean: float32 ``[H, W, C]``.
        seed: 0..2^31 - 1.
        configs: the complete ``training_configs``; see ``check_batch_size``.
        strategy: of ``machine.cluster.make_strategy``; the default one for None.
        xla: compile forward, backward and update with XLA; for a single replica. It is for GPUs:
            on a CPU it is slower than oneDNN's kernels. Dropout then draws other numbers.

    Attributes:
        variables: by name, all that a step changes.
    """

    def __init__(
        self,
        network: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        seed: int,
        configs: dict,
        strategy: tf.distribute.Strategy | None = None,
        xla: bool = False,
    ):
        self._network, self._seed, self._configs = network, seed, configs
        self._strategy = strategy or tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        self._trained = [variable.value for variable in updated_variables(network)]
        self._decayed = {id(kernel.value) for kernel in l2_kernels(network)}
        with self._strategy.scope():
            self._optimizer = Optimizer(self._trained, configs)
        groups = {
            "network": [variable.value for variable in network.weights],
            "optimizer": self._optimizer.variables,
        }
        self.variables = {
            f"{group}/{number}": variable
            for group, variables in groups.items()
            for number, variable in enumerate(variables)
        }
        compiled = tf.function(self.update, autograph=False, jit_compile=True)
        self._update = compiled if xla and self._replicas == 1 else self.update
        self._runs = [self._compile(small) for small in (False, True)]  # each when it is called
        self._data = [self._to_devices(array) for array in (images, labels, mean)]

    def run(
        self, order: tf.Tensor, position: int, step: int, rates: list[float], small: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Train on S global batches, one after the other.

        Bit for bit it makes no difference how many steps are in a call; calls cost time.

        Args:
            order: int32 ``[N]``, the epoch's permutation of the images.
            position: place of the first batch's first image in ``order``.
            step: completed steps of the whole run.
            rates: the learning rate of each of the S steps.
            small: train on shrunk images.

        Returns:
            Of each step, float32 ``[S]``: mean loss (without L2) and number of correct answers of
            the global batch as it was trained on, the second of no meaning with mixup.
        """
        return self._runs[small](order, position, step, rates)

    def _compile(self, small):
        signature = [  # compiled once, however many steps are in a call
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([None], tf.float32),
        ]
        run = functools.partial(self._run, small)
        return tf.function(run, autograph=False, input_signature=signature)

    def _run(self, small, order, position, step, rates):
        def one(number_and_rate):
            number, rate = number_and_rate
            place = position + number * self._configs["batch_size"]
            arguments = order, place, step + tf.cast(number, tf.int64), rate
            results = self._strategy.run(self._step, (small, *self._data, *arguments))
            return tuple(self._strategy.experimental_local_results(result)[0] for result in results)

        return tf.map_fn(
            one,
            (tf.range(tf.size(rates)), rates),
            parallel_iterations=1,
            fn_output_signature=(tf.float32,) * 2,
        )

    def _to_devices(self, array):
        """A copy on each device of this process: no image goes there in a step."""
        # TensorFlow gathers uint8 on GPUs from variables only, and int32 there from tensors only.
        hold = tf.Variable if array.dtype == np.uint8 else tf.constant
        if self._replicas == 1:
            return hold(array)
        devices = self._strategy.extended.worker_devices

        def copy(context):
            with tf.device(devices[context.replica_id_in_sync_group % len(devices)]):
                return hold(array)

        return self._strategy.experimental_distribute_values_from_function(copy)

    def _step(self, small, all_images, all_labels, mean, order, position, step, rate):
        batch_size = self._configs["batch_size"]
        count, first, places = batch_size // self._replicas, 0, tf.range(batch_size)
        if self._replicas > 1:
            first = tf.distribute.get_replica_context().replica_id_in_sync_group * count
            # One image more, thrown away below: mixup mixes the last one with it.
            places = (first + tf.range(count + 1)) % batch_size
        seed, chosen = step_seed(self._seed, step), tf.gather(order, position + places)
        images, labels = training_batch(
            tf.gather(all_images, chosen),
            tf.gather(all_labels, chosen),
            mean,
            draw(seed, batch_size, all_images.shape[1:], self._configs).take(places),
            self._configs,
            self._network.output_shape[-1],
            small,
        )
        with dropout_stream(stream_seed(seed, "dropout"), first):
            return self._update(images[:count], labels[:count], rate, step)

    def update(
        self, images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Forward, backward and update on this replica's part of the global batch.

        Args:
            images: float32 ``[B, H, W, C]``, of ``training_batch``.
            labels: float32 ``[B, K]``.
            rate: float32 scalar, the learning rate.
            step: int64 scalar, completed steps of the whole run.

        Returns:
            What ``run`` does, of one step.
        """
        with tf.GradientTape() as tape:
            logits = self._network(images, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses) / self._configs["batch_size"]
        gradients = tape.gradient(loss, self._trained)
        correct = tf.argmax(logits, axis=1) == tf.argmax(labels, axis=1)
        correct = tf.math.count_nonzero(correct, dtype=tf.float32)
        *gradients, loss, correct = self._sum_over_replicas([*gradients, loss, correct])
        self._optimizer.apply(self._with_l2(gradients), rate, step)
        return loss, correct

    def _sum_over_replicas(self, tensors):
        """All in one piece: what an exchange costs is mostly its number of messages."""
        if self._replicas == 1:
            return tensors
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, flat)
        parts = tf.split(total, [tensor.shape.num_elements() for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _with_l2(self, gradients):
        """Add the gradient of l2 * sum(kernel^2): the update of L2 in the loss, for less work."""
        factor = 2 * self._configs["l2"]
        return [
            gradient + factor * variable if id(variable) in self._decayed else gradient
            for variable, gradient in zip(self._trained, gradients, strict=True)
        ]


def check_batch_size(batch_size: int, replicas: int) -> None:
    """Raise ``ValueError`` unless each replica gets an equal part of the global batch."""
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        nearest = below + replicas if 2 * (batch_size - below) > replicas or not below else below
        raise ValueError(
            f"batch_size: expected a multiple of {replicas}, the number of replicas, found "
            f"{batch_size}; the nearest is {nearest}"
        )
