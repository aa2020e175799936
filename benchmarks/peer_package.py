"""The package itself: its whole training loop with every augmentation, and its inference."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import tensorflow as tf

import Configure
import Model
from machine import cluster, processor
from training.layers import dropout_stream
from training.loop import steps_in_call
from training.step import TrainStep, step_seed
from turns import Turns, images


def _configs(precision: str, batch_size: int):
    return Configure.configure("resnet20", {"precision": precision, "batch_size": batch_size})


def train(
    precision: str, batch_size: int, steps: int, turns: Callable[[], None], strategy=None
) -> None:
    """Rounds of ``steps`` steps of ``Model.train``."""
    model_configs, training_configs = _configs(precision, batch_size)
    end = steps

    def stop(step: int) -> bool:
        nonlocal end
        if step >= end:
            end += steps
            turns()
        return False

    model = Model.Model(model_configs, strategy=strategy)
    model.train(*images(), training_configs, stop=stop)


def replicas(precision: str, batch_size: int, steps: int, turns: Turns) -> None:
    """``train`` with a replica for each core."""
    devices = [tf.config.LogicalDeviceConfiguration()] * processor.cores()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    train(precision, batch_size, steps, turns, cluster.make_strategy("mirrored"))


def step(precision: str, batch_size: int, steps: int, turns: Turns, **options) -> None:
    """The bare step: forward, backward and update on one batch that never changes.

    As many are in a call of TensorFlow's function as in training, unless it is said otherwise.
    """
    run = _bare_step(precision, batch_size, **options)
    while True:
        run(steps)
        turns()


def xla(precision: str, batch_size: int, steps: int, turns: Turns) -> None:
    """The bare step compiled by XLA."""
    step(precision, batch_size, steps, turns, xla=True)


def one(precision: str, batch_size: int, steps: int, turns: Turns) -> None:
    """The bare step, one in a call."""
    step(precision, batch_size, steps, turns, in_call=1)


def overhead(precision: str, batch_size: int, steps: int, turns: Turns) -> None:
    """Rounds of ``train`` and of ``step`` in turn, in one process."""
    run = _bare_step(precision, batch_size)

    def take_both_turns():
        turns()
        run(steps)
        turns()

    train(precision, batch_size, steps, take_both_turns)


def _bare_step(precision, batch_size, in_call=None, xla=False):
    """A function that takes a number of bare steps."""
    model_configs, training_configs = _configs(precision, batch_size)
    model = Model.Model(model_configs)
    x, y = images(batch_size)
    bare = TrainStep(model.network, None, x, y, model.mean, 0, training_configs)
    # What does not change is an argument too: TensorFlow computes with constants only once.
    batch = tf.constant(x / np.float32(255)), tf.one_hot(y, 10), tf.constant(1e-3)
    in_call = in_call or steps_in_call(batch_size)
    first = itertools.count(0, in_call)
    compiled = tf.function(bare.update, autograph=False, jit_compile=True) if xla else bare.update

    @tf.function(autograph=False)
    def call(images, labels, rate, numbers):
        def update(number):
            with dropout_stream(step_seed(0, number)):
                return compiled(images, labels, rate, number)[0]

        return tf.map_fn(update, numbers, parallel_iterations=1, fn_output_signature=tf.float32)

    def run(steps):
        for _ in range(steps // in_call):
            losses = call(*batch, next(first) + tf.range(in_call, dtype=tf.int64))
        np.asarray(losses)

    return run


def infer(precision: str, batch_size: int, turns: Turns) -> None:
    """Rounds of 10,000 images through ``Model.predict_prob``, from uint8."""
    Model.INFERENCE_BATCH = batch_size
    model = Model.Model(_configs(precision, 32)[0])
    x, _ = images(10_000)
    while True:
        model.predict_prob(x)
        turns()
