"""The learner: train, evaluate, predict_prob."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import Configure
import ImageUtils
from machine import processor
from machine.cluster import any_process, devices_of, is_chief
from machine.errors import DivergedError
from Network import folded_weights, resnet_v1
from runs.metrics import measure
from runs.record import read_record
from runs.weights import load_weights
from training.loop import Progress, Training
from training.step import TrainStep, check_batch_size, epoch_order, step_seed, training_batch

INPUT_SHAPE = (32, 32, 3)  # height, width, channels
INFERENCE_BATCH = 1000


class Evaluation(NamedTuple):
    """What ``Model.evaluate`` finds."""

    metrics: dict  # of runs.metrics.measure
    probabilities: np.ndarray  # float32 [N, K]


class _Inference(NamedTuple):
    """The network without batch norm on one device."""

    device: str
    network: keras.Model
    probabilities: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Model:
    """ResNet v1 with the mean image that it was trained with.

    Args:
        model_configs: the complete dictionary of Configure.py.
        num_classes: >= 2.
        strategy: of ``machine.cluster.make_strategy``, for training; the default one for None.
        inference_precision: "float32" or "bfloat16", of ``evaluate`` and ``predict_prob``. In
            float32 every machine gives the same classes, but for rare ties.

    Attributes:
        network: ``keras.Model`` from normalized images to logits.
        mean: float32 ``[H, W, C]``, mean of the training images.
        precision: "float32" or "bfloat16", of the training.

    Raises:
        ValueError: an architecture that cannot be built.
    """

    def __init__(
        self,
        model_configs: dict,
        num_classes: int = 10,
        strategy: tf.distribute.Strategy | None = None,
        inference_precision: str = "float32",
    ):
        self.configs = dict(model_configs)
        self.precision, _ = processor.choose_precision(self.configs["precision"])
        self._inference_precision = inference_precision
        self._num_classes = num_classes
        self._strategy = strategy or tf.distribute.get_strategy()
        with self._strategy.scope():
            self.network = self._build()
        self.mean = np.zeros(INPUT_SHAPE, np.float32)
        self._inference = [self._make_inference(device) for device in devices_of(self._strategy)]

    @classmethod
    def load(
        cls,
        folder: Path,
        inference_precision: str = "float32",
        test_time_flip: bool | None = None,
        test_time_shift: bool | None = None,
    ) -> Model:
        """Load the model of a finished run.

        Args:
            folder: of the run.
            inference_precision: "float32" or "bfloat16".
            test_time_flip: see Configure.py; None for what the run was configured to.
            test_time_shift: likewise.

        Raises:
            RunError: the run is missing, damaged, or not finished.
        """
        record = read_record(folder)
        configs, classes = record["model_configs"], len(record["class_names"])
        asked = {"test_time_flip": test_time_flip, "test_time_shift": test_time_shift}
        configs = {**configs, **{key: v for key, v in asked.items() if v is not None}}
        model = cls(configs, num_classes=classes, inference_precision=inference_precision)
        model.mean = load_weights(folder, model.network, record)
        return model

    def train(
        self,
        x_train: np.ndarray,
        y_train: np.ndarray,
        training_configs: dict,
        x_valid: np.ndarray | None = None,
        y_valid: np.ndarray | None = None,
        run=None,
        save_seconds: float = 600.0,
        stop: Callable[[int], bool] = lambda step: False,
        on_epoch: Callable[[dict, list[dict], int, float], None] = lambda *_: None,
    ) -> Progress:
        """Train from the current weights, or from the state of ``run``.

        Args:
            x_train: uint8 ``[N, H, W, C]``, N >= batch_size. What N has beyond a multiple of
                batch_size is left out of an epoch; each epoch's order leaves out others.
            y_train: int32 ``[N]``.
            training_configs: the complete dictionary of Configure.py.
            x_valid: uint8 ``[M, H, W, C]``; None or empty for no validation.
            y_valid: int32 ``[M]``.
            run: a ``SharedRun`` to save to and go on from, or None.
            save_seconds: between saves within an epoch; there is one at the end of each anyway.
            stop: called every few steps with the number of steps of the whole run so far; True in
                any worker saves and ends the training, with all workers at one step.
            on_epoch: called after each epoch, once its state is saved, with the epoch's row of the
                history, the whole history, the number of epochs, and the seconds left.

        Returns:
            The progress at the end; its ``history`` has a row an epoch, with the keys of
            ``runs.metrics.HISTORY_COLUMNS``.

        Raises:
            ValueError: arrays that fit neither the network nor each other.
            DivergedError: a loss or weight that is not finite; the last state is kept.
            InterruptedRunError: ``stop`` said so; the state is saved.
        """
        self.check_training_data(x_train, y_train, training_configs)
        self.mean, seed = ImageUtils.pixel_mean(x_train), self.configs["seed"]
        step = TrainStep(
            self.network,
            x_train,
            y_train,
            self.mean,
            seed,
            training_configs,
            self._strategy,
            xla=processor.count_gpus() > 0,
        )

        def validate():
            if x_valid is None or len(x_valid) == 0:
                return None, None
            metrics = self.evaluate(x_valid, y_valid).metrics
            return metrics["loss"], metrics["accuracy"]

        return Training(
            step,
            len(x_train),
            seed,
            training_configs,
            validate,
            run,
            save_seconds,
            lambda number: any_process(self._strategy, stop(number)),
            on_epoch,
            bar=is_chief(self._strategy),
        ).run()

    def check_training_data(
        self, x_train: np.ndarray, y_train: np.ndarray, training_configs: dict
    ) -> None:
        """Raise ``ValueError`` if ``train`` could not begin with this."""
        self._check(x_train, y_train)
        check_batch_size(training_configs["batch_size"], self._strategy.num_replicas_in_sync)
        if len(x_train) < training_configs["batch_size"]:
            raise ValueError(
                f"batch_size: expected at most {len(x_train)}, the number of training images, "
                f"found {training_configs['batch_size']}"
            )

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
            float32 ``[count, H, W, C]``, about 0..1, shrunk if those of the first epoch are, and
            their labels, float32 ``[count, K]``.
        """
        batch_size, seed = training_configs["batch_size"], step_seed(self.configs["seed"], 0)
        chosen = epoch_order(self.configs["seed"], 0, len(x_train))[:batch_size]
        mean, small = ImageUtils.pixel_mean(x_train), Configure.small_epochs(training_configs) > 0
        images, labels = training_batch(
            tf.constant(x_train[chosen]),
            tf.constant(y_train[chosen]),
            tf.constant(mean),
            ImageUtils.draw(seed, batch_size, INPUT_SHAPE, training_configs),
            training_configs,
            self._num_classes,
            small,
        )
        if small:
            mean = ImageUtils.shrink(mean[None])[0]
        return (images[:count] + mean).numpy(), labels[:count].numpy()

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> Evaluation:
        """Measure the network on images with labels.

        Args:
            x: uint8 ``[N, H, W, C]``, N >= 1.
            y: int32 ``[N]``.

        Returns:
            The metrics of ``runs.metrics.measure``, and the probabilities that they are of.

        Raises:
            ValueError: arrays that fit neither the network nor each other.
            DivergedError: probabilities that are not finite.
        """
        self._check(x, y)
        probabilities = self.predict_prob(x)
        return Evaluation(measure(y, probabilities), probabilities)

    def predict_prob(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class.

        Args:
            x: uint8 ``[N, H, W, C]``, 0..255.

        Returns:
            float32 ``[N, num_classes]``; rows add up to 1.

        Raises:
            ValueError: images of another type or shape.
            DivergedError: probabilities that are not finite.
        """
        self._check(x)
        weights = folded_weights(self.network, self._inference[0].network)
        mean = tf.constant(self.mean)
        for inference in self._inference:
            inference.network.set_weights(weights)

        def infer(number: int) -> np.ndarray:
            inference = self._inference[number % len(self._inference)]
            first = number * INFERENCE_BATCH
            with tf.device(inference.device):
                images = tf.constant(x[first : first + INFERENCE_BATCH])
                return inference.probabilities(images, mean).numpy()

        # Two batches at a time on each device: one fills the gaps that the other leaves.
        with ThreadPoolExecutor(2 * len(self._inference)) as threads:
            parts = threads.map(infer, range(-(-len(x) // INFERENCE_BATCH)))
            found = np.concatenate([np.empty((0, self._num_classes), np.float32), *parts])
        if not np.isfinite(found).all():
            raise DivergedError(
                "expected finite probabilities, found some that are NaN: the network's weights "
                "have become too large; train again with a lower --learning-rate"
            )
        return found

    def _make_inference(self, device: str) -> _Inference:
        with tf.device(device):
            network = self._build(self._inference_precision, folded=True)

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, *INPUT_SHAPE], tf.uint8),
                tf.TensorSpec(INPUT_SHAPE, tf.float32),
            ],
        )
        def probabilities(images, mean):
            views = ImageUtils.views(ImageUtils.normalize(images, mean), self.configs)
            return sum(w * tf.nn.softmax(network(view, training=False)) for w, view in views)

        return _Inference(device, network, probabilities)

    def _build(self, precision: str | None = None, folded: bool = False) -> keras.Model:
        return resnet_v1(
            INPUT_SHAPE,
            self.configs["depth"],
            self._num_classes,
            self.configs["width"],
            (self.configs["dropout_stack2"], self.configs["dropout_stack3"]),
            precision or self.precision,
            self.configs["seed"],
            folded,
        )

    def _check(self, x, y=None):
        shape = (len(x), *INPUT_SHAPE)
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
