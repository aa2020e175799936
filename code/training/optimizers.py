"""Optimizers: a table of slots and updates, most of them TensorFlow's one-kernel updates.

Every update but muon's equals that of the Keras optimizer of the same name to float32 rounding;
Keras composes it of about ten small operations for each variable.
"""

from __future__ import annotations

import tensorflow as tf

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x^3 and x^5 (Jordan et al. 2024, Muon; KellerJordan/cifar10-airbench)."""


class Optimizer:
    """Slots for a list of variables, and an update.

    Each replica updates its own copy of everything; they stay equal, as their gradients are.

    Args:
        trainable: float32 variables.
        configs: keys ``optimizer``, ``momentum``, ``nesterov``, ``sgd_ratio`` of Configure.py.

    Attributes:
        variables: the slots: with the step's number, all that is needed to go on.
    """

    def __init__(self, trainable: list[tf.Variable], configs: dict):
        slots, self._update = OPTIMIZERS[configs["optimizer"]]
        self._configs = configs
        self._trainable = trainable
        self._slots = [
            [tf.Variable(tf.zeros(v.shape), trainable=False) for v in trainable] for _ in slots
        ]
        self.variables = [variable for slot in self._slots for variable in slot]

    def apply(self, gradients: list[tf.Tensor], rate: tf.Tensor, step: tf.Tensor | int) -> None:
        """Update every variable once.

        Args:
            gradients: one float32 tensor for each variable, of the global batch.
            rate: float32 scalar, the learning rate.
            step: integer scalar, completed steps of the whole run.
        """
        groups = zip(self._trainable, gradients, *self._slots, strict=True)
        for variable, gradient, *slots in groups:
            self._update(variable, gradient, rate, step, self._configs, *slots)


def _adam(variable, gradient, rate, step, configs, momentum, velocity):
    """Adam (arXiv:1412.6980) with Keras's betas 0.9 and 0.999 and epsilon 1e-7."""
    power = tf.cast(step + 1, tf.float32)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.handle,
        v=velocity.handle,
        beta1_power=tf.pow(0.9, power),
        beta2_power=tf.pow(0.999, power),
        lr=rate,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-7,
        grad=gradient,
    )


def _rmsprop(variable, gradient, rate, step, configs, velocity, momentum):
    """RMSprop (Tieleman and Hinton 2012) with Keras's rho 0.9 and epsilon 1e-7."""
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=velocity.handle,
        mom=momentum.handle,
        lr=rate,
        rho=0.9,
        momentum=configs["momentum"],
        epsilon=1e-7,
        grad=gradient,
    )


def _sgd(variable, gradient, rate, step, configs, momentum):
    """Stochastic gradient descent with Polyak's or Nesterov's momentum (Sutskever et al. 2013)."""
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=momentum.handle,
        lr=rate,
        grad=gradient,
        momentum=configs["momentum"],
        use_nesterov=configs["nesterov"],
    )


def _muon(variable, gradient, rate, step, configs, momentum):
    """Muon for kernels of convolutions, as in airbench94_muon; Nesterov's SGD for the rest.

    A kernel is brought to the norm sqrt(c_out), then moved by the orthogonalized momentum (by five
    steps of the iteration, where airbench94_muon has three).
    """
    if variable.shape.rank != 4:
        ratio, nesterov = configs["sgd_ratio"], {**configs, "nesterov": True}
        _sgd(variable, gradient, ratio * rate, step, nesterov, momentum)
        return
    before = tf.convert_to_tensor(variable)
    speed = configs["momentum"] * tf.convert_to_tensor(momentum) + gradient
    ahead = gradient + configs["momentum"] * speed
    matrix = tf.reshape(ahead, [-1, ahead.shape[-1]])
    update = tf.reshape(orthogonalize(matrix), ahead.shape)
    kept = before * (float(variable.shape[-1]) ** 0.5 / tf.norm(before))
    tf.raw_ops.AssignVariableOp(resource=momentum.handle, value=speed)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=kept - rate * update)


def orthogonalize(matrix: tf.Tensor, steps: int = 5) -> tf.Tensor:
    """Move every singular value near 1, by a Newton-Schulz iteration of fifth order.

    Args:
        matrix: float32 ``[M, N]``.
        steps: of the iteration; five bring the singular values to about 0.7..1.2, but for those
            below a few thousandths of the Frobenius norm, which stay smaller.

    Returns:
        float32 ``[M, N]`` with the singular vectors of ``matrix``.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = tf.transpose(matrix) if tall else matrix
    x /= tf.norm(x) + 1e-7  # no singular value is above 1
    for _ in range(steps):
        square = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * square + c * tf.matmul(square, square), x)
    return tf.transpose(x) if tall else x


OPTIMIZERS = {
    "adam": (("momentum", "velocity"), _adam),
    "rmsprop": (("velocity", "momentum"), _rmsprop),
    "sgd": (("momentum",), _sgd),
    "muon": (("momentum",), _muon),
}
"""For each name, what is kept of every variable, and the update."""
