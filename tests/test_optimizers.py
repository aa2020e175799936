"""training/optimizers.py: Keras's optimizers, update for update; Muon by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.optimizers import Optimizer, orthogonalize

SHAPES = [(3, 4), (5,), (2, 2, 1, 3)]
STEPS = 30


def gradients(step):
    """Gradients of very different sizes, one of them zero."""
    generator = np.random.default_rng(step)
    scales = 10.0 ** generator.uniform(-6, 1, len(SHAPES))
    arrays = [
        scale * generator.normal(size=shape) for scale, shape in zip(scales, SHAPES, strict=True)
    ]
    arrays[1][0] = 0
    return [tf.constant(array, tf.float32) for array in arrays]


def rate(step):
    """A learning rate that changes at each step."""
    return 0.01 * (1.0 + math.cos(step))


def start():
    generator = np.random.default_rng(99)
    return [generator.normal(size=shape).astype(np.float32) for shape in SHAPES]


def ours(name, momentum=0.0, nesterov=False):
    variables = [tf.Variable(values) for values in start()]
    return variables, make(variables, name, momentum, nesterov)


def make(variables, name, momentum=0.0, nesterov=False, sgd_ratio=4.0):
    keys = {"momentum": momentum, "nesterov": nesterov, "sgd_ratio": sgd_ratio}
    return Optimizer(variables, {"optimizer": name, **keys})


# Updates


@pytest.mark.parametrize(
    ("name", "momentum", "nesterov", "stock"),
    [
        ("adam", 0.0, False, keras.optimizers.Adam),
        ("rmsprop", 0.0, False, keras.optimizers.RMSprop),
        ("rmsprop", 0.9, False, lambda: keras.optimizers.RMSprop(momentum=0.9)),
        ("sgd", 0.0, False, keras.optimizers.SGD),
        ("sgd", 0.9, False, lambda: keras.optimizers.SGD(momentum=0.9)),
        ("sgd", 0.9, True, lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True)),
    ],
)
def test_thirty_updates_are_those_of_keras(name, momentum, nesterov, stock):
    variables, optimizer = ours(name, momentum, nesterov)
    expected = [keras.Variable(values) for values in start()]
    stock = stock()
    stock.build(expected)
    for step in range(STEPS):
        optimizer.apply(gradients(step), tf.constant(rate(step), tf.float32), step)
        stock.learning_rate.assign(rate(step))
        stock.apply(gradients(step))
    for found, wanted, first in zip(variables, expected, start(), strict=True):
        moved = np.abs(wanted.numpy() - first).max()
        assert moved > 0.01
        # A few roundings of float32 (6e-8 of the number) a step, of the variable and of its update.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * moved)


@pytest.mark.parametrize(("name", "slots"), [("adam", 2), ("rmsprop", 2), ("sgd", 1), ("muon", 1)])
def test_the_variables_are_all_there_is_to_go_on_from(name, slots):
    variables, optimizer = ours(name, 0.9)
    assert [tuple(v.shape) for v in optimizer.variables] == SHAPES * slots
    for step in range(3):
        optimizer.apply(gradients(step), rate(step), step)

    again, resumed = ours(name, 0.9)
    for copies, originals in ((again, variables), (resumed.variables, optimizer.variables)):
        for copy, original in zip(copies, originals, strict=True):
            copy.assign(original)
    for one in (optimizer, resumed):
        one.apply(gradients(3), rate(3), 3)
    for found, expected in zip(again, variables, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_update_of_muon_is_the_same_in_a_graph():
    eager, graph = ours("muon", 0.9), ours("muon", 0.9)
    compiled = tf.function(graph[1].apply)
    for step in range(3):
        eager[1].apply(gradients(step), rate(step), step)
        compiled(gradients(step), tf.constant(rate(step), tf.float32), tf.constant(step))
    for found, expected in zip(graph[0], eager[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# Muon


@pytest.mark.parametrize("shape", [(144, 16), (16, 32), (27, 8), (8, 8)])
def test_orthogonalization_keeps_the_singular_vectors_and_moves_the_values_near_one(shape):
    matrix = np.random.default_rng(1).normal(size=shape)
    found = orthogonalize(tf.constant(1e-3 * matrix, tf.float32)).numpy()
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    assert values.max() > 1.3 * values.min()
    moved = left.T @ found @ right.T
    assert ((np.diag(moved) > 0.65) & (np.diag(moved) < 1.25)).all()
    np.testing.assert_allclose(moved - np.diag(np.diag(moved)), 0, atol=1e-4)


def test_one_iteration_is_the_quintic_of_the_singular_values():
    matrix = np.diag([3.0, 4.0])  # of norm 5
    share = np.array([0.6, 0.8])
    expected = 3.4445 * share - 4.7750 * share**3 + 2.0315 * share**5
    found = orthogonalize(tf.constant(matrix, tf.float32), steps=1)
    np.testing.assert_allclose(found, np.diag(expected), atol=1e-5)


def test_muon_by_hand():
    generator = np.random.default_rng(4)
    kernel, *slopes = (generator.normal(size=(3, 3, 2, 5)).astype(np.float32) for _ in range(3))
    bias = np.float32([1.0, 2.0])
    variables = [tf.Variable(kernel), tf.Variable(bias)]
    optimizer = make(variables, "muon", momentum=0.5, sgd_ratio=2.0)
    speed = 0.0
    for step, slope in enumerate(slopes):
        optimizer.apply([tf.constant(slope), tf.constant([1.0, -1.0])], 0.1, step)
        speed = 0.5 * speed + slope
        ahead = (slope + 0.5 * speed).reshape(18, 5)  # Nesterov's
        update = orthogonalize(tf.constant(ahead)).numpy().reshape(kernel.shape)
        kernel = kernel * np.sqrt(5) / np.linalg.norm(kernel) - 0.1 * update
    np.testing.assert_allclose(variables[0], kernel, rtol=1e-4, atol=1e-5)
    # Nesterov's steps of SGD at twice the rate: 0.2 * 1.5, then 0.2 * 1.75.
    np.testing.assert_allclose(variables[1], bias - 0.2 * 3.25 * np.float32([1, -1]), rtol=1e-5)
