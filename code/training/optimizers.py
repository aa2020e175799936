"""Optimizers on TensorFlow's one-kernel updates, and learning-rate schedules, from configuration.

An update equals that of the Keras optimizer of the same name to float32 rounding; Keras composes
it of about ten small operations for each variable.
"""

from __future__ import annotations

import math

import tensorflow as tf


class Optimizer:
    """Slots for a list of variables, and an update. Subclasses say which.

    Each replica updates its own copy of everything; they stay equal, as their gradients are.

    Attributes:
        variables: everything that must be saved to go on: the iteration and the slots.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, trainable: list[tf.Variable]):
        self._trainable = trainable
        self.iterations = tf.Variable(0, dtype=tf.int64, name="iterations", trainable=False)
        self._slots = [
            [tf.Variable(tf.zeros(v.shape), trainable=False) for v in trainable]
            for _ in self.slot_names
        ]

    @property
    def variables(self) -> list[tf.Variable]:
        """The iteration (int64, completed updates), then slot by slot in the variables' order."""
        return [self.iterations, *(v for slot in self._slots for v in slot)]

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Update every variable once.

        Args:
            gradients: one float32 tensor for each variable, of the global batch.
            learning_rate: float32 scalar.
        """
        step = tf.cast(self.iterations + 1, tf.float32)
        constants = self._constants(step)
        for variable, gradient, *slots in zip(
            self._trainable, gradients, *self._slots, strict=True
        ):
            handles = (slot.handle for slot in slots)
            self._update(variable.handle, gradient, learning_rate, constants, *handles)
        tf.raw_ops.AssignAddVariableOp(
            resource=self.iterations.handle, value=tf.constant(1, tf.int64)
        )

    def _constants(self, step):
        return ()

    def _update(self, variable, gradient, learning_rate, constants, *slots):
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (arXiv:1412.6980) with Keras's betas 0.9 and 0.999 and epsilon 1e-7."""

    slot_names = ("momentum", "velocity")

    def _constants(self, step):
        return tf.pow(0.9, step), tf.pow(0.999, step)

    def _update(self, variable, gradient, learning_rate, constants, momentum, velocity):
        tf.raw_ops.ResourceApplyAdam(
            var=variable,
            m=momentum,
            v=velocity,
            beta1_power=constants[0],
            beta2_power=constants[1],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-7,
            grad=gradient,
        )


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012) with Keras's rho 0.9 and epsilon 1e-7.

    Args:
        trainable: the variables.
        momentum: 0 <= momentum < 1.
    """

    slot_names = ("velocity", "momentum")

    def __init__(self, trainable: list[tf.Variable], momentum: float = 0.0):
        super().__init__(trainable)
        self.momentum = momentum

    def _update(self, variable, gradient, learning_rate, constants, velocity, momentum):
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable,
            ms=velocity,
            mom=momentum,
            lr=learning_rate,
            rho=0.9,
            momentum=self.momentum,
            epsilon=1e-7,
            grad=gradient,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with Polyak or Nesterov momentum.

    Args:
        trainable: the variables.
        momentum: 0 <= momentum < 1.
        nesterov: look ahead (Sutskever et al. 2013).
    """

    slot_names = ("momentum",)

    def __init__(self, trainable: list[tf.Variable], momentum: float = 0.0, nesterov: bool = False):
        super().__init__(trainable)
        self.momentum = momentum
        self.nesterov = nesterov

    def _update(self, variable, gradient, learning_rate, constants, momentum):
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable,
            accum=momentum,
            lr=learning_rate,
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )


def make_optimizer(trainable: list[tf.Variable], configs: dict) -> Optimizer:
    """The optimizer that ``configs`` names, for these variables.

    Args:
        trainable: float32 variables.
        configs: keys ``optimizer``, ``momentum``, ``nesterov`` of Configure.py.

    Raises:
        ValueError: an unknown optimizer.
    """
    name = configs["optimizer"]
    if name == "adam":
        return Adam(trainable)
    if name == "rmsprop":
        return RMSprop(trainable, configs["momentum"])
    if name == "sgd":
        return SGD(trainable, configs["momentum"], configs["nesterov"])
    raise ValueError(f"optimizer: expected adam, rmsprop or sgd, found {name!r}")


def learning_rate(step: int, steps_per_epoch: int, configs: dict) -> float:
    """The rate of one step, a closed form of the step's number.

    Warm-up goes first, in a straight line from ``learning_rate / warm-up steps`` on; the schedule
    covers what is left of the run.

    Args:
        step: completed steps of the whole run, >= 0.
        steps_per_epoch: > 0.
        configs: keys ``learning_rate``, ``schedule``, ``epochs``, ``warmup_epochs``, ``eta_min``,
            ``t_0``, ``t_mult`` of Configure.py.

    Raises:
        ValueError: an unknown schedule.
    """
    eta_max, warmup = configs["learning_rate"], configs["warmup_epochs"] * steps_per_epoch
    if step < warmup:
        return eta_max * (step + 1) / warmup
    epoch = (step - warmup) / steps_per_epoch
    total = configs["epochs"] - configs["warmup_epochs"]
    if configs["schedule"] == "constant":
        return eta_max
    if configs["schedule"] == "steps":
        return eta_max * _example_factor(math.floor(epoch) / total)
    if configs["schedule"] == "cosine":
        share = _share_of_period(epoch, configs["t_0"] or total, configs["t_mult"])
        eta_min = configs["eta_min"]
        return eta_min + 0.5 * (eta_max - eta_min) * (1 + math.cos(math.pi * share))
    raise ValueError(f"schedule: expected constant, steps or cosine, found {configs['schedule']!r}")


def _example_factor(share: float) -> float:
    """The Keras example's steps, its 200 epochs taken as the whole run."""
    for after, factor in ((180, 0.5e-3), (160, 1e-3), (120, 1e-2), (80, 1e-1)):
        if share > after / 200:
            return factor
    return 1.0


def _share_of_period(epoch: float, period: float, factor: float) -> float:
    """T_cur / T_i of SGDR (arXiv:1608.03983, eq. 5): each period is ``factor`` times the last."""
    while epoch >= period:
        epoch -= period
        period *= factor
    return epoch / period
