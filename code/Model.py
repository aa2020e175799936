"""The learner: train, evaluate, predict_prob."""

from __future__ import annotations

import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import Hardware
import ImageUtils
import Optimization
from Errors import DivergedError
from Network import folded_weights, resnet_v1, updated_variables
from TrainStep import TrainStep, epoch_order, step_seed, training_batch

INFERENCE_BATCH = 500
STEPS_BETWEEN_READINGS = 20


class Model:
    """ResNet v1 with the mean image that it was trained with.

    Args:
        model_configs: the complete dictionary of Configure.py.
        input_shape: height, width, channels.
        num_classes: >= 2.

    Attributes:
        network: ``keras.Model`` from normalized images to logits.
        mean: float32 ``[H, W, C]``, mean of the training images.
        precision: "float32" or "bfloat16"; ``precision_reason`` says why.

    Raises:
        ValueError: an architecture that cannot be built.
    """

    def __init__(
        self,
        model_configs: dict,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
    ):
        self.configs = dict(model_configs)
        self.precision, self.precision_reason = Hardware.choose_precision(self.configs["precision"])
        self._input_shape, self._num_classes = input_shape, num_classes
        self.network = self._build()
        self.mean = np.zeros(input_shape, np.float32)
        self._folded = self._build(folded=True)
        self._probabilities = tf.function(
            self._infer,
            input_signature=[
                tf.TensorSpec([None, *input_shape], tf.uint8),
                tf.TensorSpec(input_shape, tf.float32),
            ],
        )

    def train(
        self,
        x_train: np.ndarray,
        y_train: np.ndarray,
        training_configs: dict,
        x_valid: np.ndarray | None = None,
        y_valid: np.ndarray | None = None,
        on_epoch: Callable[[dict, int], None] = lambda row, epochs: None,
    ) -> list[dict]:
        """Train from the current weights.

        Args:
            x_train: uint8 ``[N, H, W, C]``, N >= batch_size. What N has beyond a multiple of
                batch_size is left out of an epoch; each epoch's order leaves out others.
            y_train: int32 ``[N]``.
            training_configs: the complete dictionary of Configure.py.
            x_valid: uint8 ``[M, H, W, C]``, or None for no validation.
            y_valid: int32 ``[M]``.
            on_epoch: called after each epoch with its row of the history and the epochs in all.

        Returns:
            The history, a row an epoch, with the keys of ``Report.HISTORY_COLUMNS``.

        Raises:
            ValueError: arrays that fit neither the network nor each other.
            DivergedError: a loss that is not finite.
        """
        self._check(x_train, y_train)
        configs, seed = training_configs, self.configs["seed"]
        steps = len(x_train) // configs["batch_size"]
        if steps == 0:
            raise ValueError(
                f"batch_size: expected at most {len(x_train)}, the number of training images, "
                f"found {configs['batch_size']}"
            )
        self.mean = ImageUtils.pixel_mean(x_train)
        trained = self.network
        variables = [variable.value for variable in updated_variables(trained)]
        optimizer = Optimization.make_optimizer(variables, configs)
        average = None
        if configs["ema_decay"]:
            average = self._build()
            average.set_weights(trained.get_weights())
        step = TrainStep(
            trained, variables, optimizer, average, x_train, y_train, self.mean, seed, configs
        )
        history = []
        for epoch in range(configs["epochs"]):
            row = self._train_epoch(step, epoch, steps, len(x_train), configs)
            if x_valid is not None and len(x_valid):
                self.network = average or trained
                metrics = self.evaluate(x_valid, y_valid)
                self.network = trained
                row["valid_loss"], row["valid_accuracy"] = metrics["loss"], metrics["accuracy"]
            history.append(row)
            on_epoch(row, configs["epochs"])
        self.network = average or trained
        return history

    def preview_batch(
        self, x_train: np.ndarray, y_train: np.ndarray, training_configs: dict, count: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first images that ``train`` will show the network, with the mean added back.

        Args:
            x_train: uint8 ``[N, H, W, C]``.
            y_train: int32 ``[N]``.
            training_configs: the complete dictionary of Configure.py.
            count: images wanted, at most ``batch_size``.

        Returns:
            float32 ``[count, H, W, C]``, about 0..1, and their labels, float32 ``[count, K]``.
        """
        batch_size, seed = training_configs["batch_size"], self.configs["seed"]
        part = ImageUtils.batch_part(0, min(count, batch_size), batch_size, training_configs)
        indices = epoch_order(seed, 0, len(x_train))[part.positions.numpy()]
        mean = ImageUtils.pixel_mean(x_train)
        images, labels = training_batch(
            tf.constant(x_train[indices]),
            tf.constant(y_train[indices]),
            tf.constant(mean),
            step_seed(seed, 0),
            part,
            training_configs,
            self._num_classes,
        )
        return images.numpy() + mean, labels.numpy()

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """Loss and accuracy on images with labels.

        Args:
            x: uint8 ``[N, H, W, C]``.
            y: int32 ``[N]``.

        Returns:
            ``loss``, the mean of -log p of the true class, and ``accuracy`` in 0..1.

        Raises:
            ValueError: arrays that fit neither the network nor each other.
        """
        self._check(x, y)
        probabilities = self.predict_prob(x)
        # A probability below float32's range is 0; its loss is that of the smallest number.
        true = np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float32).tiny)
        return {
            "loss": float(-np.log(true.astype(np.float64)).mean()),
            "accuracy": float((probabilities.argmax(axis=1) == y).mean()),
        }

    def predict_prob(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class.

        Args:
            x: uint8 ``[N, H, W, C]``, 0..255.

        Returns:
            float32 ``[N, num_classes]``; rows add up to 1.

        Raises:
            ValueError: images of another type or shape.
        """
        self._check(x)
        self._folded.set_weights(folded_weights(self.network, self._folded))
        mean = tf.constant(self.mean)
        parts = [
            self._probabilities(tf.constant(x[first : first + INFERENCE_BATCH]), mean).numpy()
            for first in range(0, len(x), INFERENCE_BATCH)
        ]
        return np.concatenate([np.empty((0, self._num_classes), np.float32), *parts])

    def _build(self, folded: bool = False) -> keras.Model:
        return resnet_v1(
            self._input_shape,
            self.configs["depth"],
            self._num_classes,
            self.configs["width"],
            (self.configs["dropout_stack2"], self.configs["dropout_stack3"]),
            self.precision,
            self.configs["seed"],
            folded,
        )

    def _infer(self, images, mean):
        images = ImageUtils.normalize(images, mean)
        probabilities = tf.nn.softmax(self._folded(images, training=False))
        if self.configs["test_time_flip"]:
            mirrored = tf.nn.softmax(self._folded(images[:, :, ::-1], training=False))
            probabilities = (probabilities + mirrored) / 2
        return probabilities

    def _train_epoch(self, step, epoch, steps, images, configs) -> dict:
        """One epoch; returns its row of the history, validation excepted."""
        seed, batch_size = self.configs["seed"], configs["batch_size"]
        order = tf.constant(epoch_order(seed, epoch, images))
        start, losses, right, pending = time.perf_counter(), [], 0, []
        with tqdm(
            total=steps, desc=f"epoch {epoch + 1}/{configs['epochs']}", leave=False, disable=None
        ) as bar:
            for index in range(steps):
                done = epoch * steps + index
                rate = Optimization.learning_rate(done, steps, configs)
                pending.append(
                    step.run(
                        order,
                        tf.constant(index * batch_size, tf.int32),
                        tf.constant(done, tf.int64),
                        tf.constant(rate, tf.float32),
                    )
                )
                if len(pending) == STEPS_BETWEEN_READINGS or index == steps - 1:
                    # Reading a result waits for it: on a GPU, once in many steps.
                    losses += [float(loss) for loss, _ in pending]
                    right += sum(int(count) for _, count in pending)
                    _check_finite(losses, epoch * steps)
                    bar.update(len(pending))
                    bar.set_postfix(
                        loss=f"{np.mean(losses):.4f}",
                        lr=f"{rate:.2e}",
                        images_per_s=f"{_rate(start, (index + 1) * batch_size):.0f}",
                    )
                    pending = []
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "train_loss": float(np.mean(losses)),
            # Against mixed labels, "right" would mean nothing.
            "train_accuracy": None if configs["mixup_alpha"] else right / (steps * batch_size),
            "valid_loss": None,
            "valid_accuracy": None,
            "seconds": time.perf_counter() - start,
            "images_per_second": _rate(start, steps * batch_size),
        }

    def _check(self, x, y=None):
        shape = (len(x), *self._input_shape)
        if x.dtype != np.uint8 or x.shape != shape:
            raise ValueError(
                f"images: expected uint8 {shape}, 0..255, found {x.dtype} {x.shape}; convert "
                "images in [0, 1] with np.round(x * 255).astype(np.uint8)"
            )
        if y is None:
            return
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"labels: expected integers ({len(x)},), found {y.dtype} {y.shape}")
        if len(y) and not (y.min() >= 0 and y.max() < self._num_classes):
            raise ValueError(
                f"labels: expected 0..{self._num_classes - 1}, found {y.min()}..{y.max()}"
            )


def _rate(start: float, images: int) -> float:
    return images / (time.perf_counter() - start)


def _check_finite(losses: list[float], first_step: int) -> None:
    finite = np.isfinite(losses)
    if not finite.all():
        index = int(finite.argmin())
        raise DivergedError(
            f"expected a finite loss, found {losses[index]} at step {first_step + index + 1}; "
            "try a lower --learning-rate, some --warmup-epochs, or --precision float32"
        )
