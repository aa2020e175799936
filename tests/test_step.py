"""training/step.py: a step of training is the step of the textbook, and it can be repeated."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_network import keras_example, random_weights

from Configure import training_configs
from ImageUtils import draw, pixel_mean, shrink, stream_seed
from Network import resnet_v1
from training.layers import dropout_stream
from training.step import TrainStep, epoch_order, step_seed, training_batch

CLASSES, BATCH, IMAGES = 4, 6, 24
INTEGERS = {"input_shape": (8, 8, 3), "depth": 8, "num_classes": CLASSES, "width": 2}
PLAIN = {
    **training_configs,
    "batch_size": BATCH,
    "l2": 0.02,  # large enough to be missed
    "flip": False,
    "crop_pad": 0,
    "mixup_alpha": 0.0,
}
# Everything that is random.
RANDOM = {
    **PLAIN,
    "flip": True,
    "crop_pad": 2,
    "shift": 0.1,
    "rotation": 10.0,
    "colour_jitter": 0.1,
    "pca_jitter": 0.1,
    "pixel_noise": 0.1,
    "cutout": 2,
    "mixup_alpha": 0.3,
}

generator = np.random.default_rng(8)
X = generator.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
Y = generator.integers(0, CLASSES, IMAGES, np.int32)


class Run:
    """A small network in training."""

    def __init__(self, configs, dropout=(0.0, 0.0), seed=5, xla=False, integers=INTEGERS):
        self.configs, self.seed = configs, seed
        self.network = resnet_v1(**integers, dropout=dropout)
        self.network.set_weights(random_weights(self.network))
        data = X, Y, pixel_mean(X)
        self.step = TrainStep(self.network, *data, seed, configs, xla=xla)

    def train(self, step, rate=1e-2, small=False):
        """Step ``step`` of epoch 0; returns mean loss and right answers."""
        order, rates = tf.constant(epoch_order(self.seed, 0, IMAGES)), tf.constant([rate])
        losses, right = self.step.run(order, step * BATCH, step, rates, small)
        return float(losses[0]), float(right[0])

    def state(self):
        """Everything that a step changes, as arrays."""
        return [variable.numpy() for variable in self.step.variables.values()]


def plain_batch(step, seed=5):
    """The images of one step, normalized, and their one-hot labels, by NumPy."""
    chosen = epoch_order(seed, 0, IMAGES)[step * BATCH :][:BATCH]
    images = (X[chosen] / 255 - X.mean(axis=0) / 255).astype(np.float32)
    return images, np.eye(CLASSES, dtype=np.float32)[Y[chosen]]


# The update


@pytest.fixture
def eagerly():
    """Without a graph, which takes seconds to make; test_loop.py trains with it."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_three_steps_are_those_of_stock_pieces_with_l2_in_the_loss():
    # With fewer channels oneDNN's gradient of the stock shortcut is wrong on some processors.
    integers = {**INTEGERS, "width": 8}
    run = Run(PLAIN, integers=integers)
    start = run.network.get_weights()
    stock = keras_example(**integers, l2=PLAIN["l2"], activation=None)
    stock.set_weights(start)
    # A bias before batch norm has a gradient of zero but for rounding, which Adam blows up.
    cancelled = {
        id(layer.bias)
        for layer in stock.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
    }
    trained = [v for v in stock.trainable_variables if id(v) not in cancelled]
    optimizer = keras.optimizers.Adam(1e-2)
    entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    for step in range(3):
        loss, right = run.train(step)
        images, labels = plain_batch(step)
        with tf.GradientTape() as tape:
            logits = stock(images, training=True)
            expected = entropy(labels, logits)
            total = expected + sum(stock.losses)
        optimizer.apply(tape.gradient(total, [v.value for v in trained]), trained)
        assert loss == pytest.approx(float(expected), rel=1e-4)
        assert right == np.sum(np.argmax(logits, axis=1) == np.argmax(labels, axis=1))
    paths = [variable.path for variable in run.network.weights]
    for path, found, expected, first in zip(
        paths, run.network.get_weights(), stock.get_weights(), start, strict=True
    ):
        # Rounding, against the distance gone.
        bound = 1e-6 + 1e-3 * np.abs(expected - first).max()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=bound, err_msg=path)


# Order and batches


def test_each_epoch_has_its_own_order_of_all_the_images():
    orders = [epoch_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int32
        assert sorted(order) == list(range(50)) != order.tolist()
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(epoch_order(0, 1, 50), orders[1])


def test_seed_and_epoch_do_not_stand_for_each_other():
    assert step_seed(3, 4).numpy().tolist() == [3, 4]
    assert step_seed(3, tf.constant(4)).dtype == tf.int64


def batch(configs, images=X[:BATCH], labels=Y[:BATCH], step=0):
    draws = draw(step_seed(5, step), BATCH, (8, 8, 3), configs)
    mean = tf.constant(pixel_mean(X))
    return training_batch(tf.constant(images), tf.constant(labels), mean, draws, configs, CLASSES)


def test_a_plain_batch_is_normalized_with_one_hot_labels():
    images, labels = batch(PLAIN)
    np.testing.assert_allclose(images, X[:BATCH] / 255 - X.mean(axis=0) / 255, atol=1e-6)
    np.testing.assert_array_equal(labels, np.eye(CLASSES)[Y[:BATCH]])


def test_label_smoothing_after_mixup_still_adds_up_to_one():
    _, mixed = batch(RANDOM)
    _, labels = batch({**RANDOM, "label_smoothing": 0.2})
    np.testing.assert_allclose(labels, 0.8 * mixed + 0.05, rtol=1e-6)
    np.testing.assert_allclose(np.sum(labels, axis=1), 1, rtol=1e-6)


def test_the_step_trains_on_the_batch_of_training_batch(eagerly):
    run = Run(RANDOM, dropout=(0.1, 0.2))
    chosen = epoch_order(5, 0, IMAGES)[BATCH : 2 * BATCH]
    images, labels = batch(RANDOM, X[chosen], Y[chosen], 1)
    with dropout_stream(stream_seed(step_seed(5, 1), "dropout")):
        logits = run.network(images, training=True)
    expected = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    assert run.train(1, rate=0.0)[0] == pytest.approx(float(expected), rel=1e-5)


def test_a_step_on_small_images_trains_on_the_shrunk_batch(eagerly):
    run = Run(PLAIN)
    loss, _ = run.train(0, rate=0.0, small=True)
    images, labels = plain_batch(0)
    logits = run.network(shrink(tf.constant(images)), training=True)
    expected = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_xla_computes_the_same():
    plain, compiled = (Run(PLAIN, xla=xla) for xla in (False, True))
    found = [compiled.train(step) for step in range(3)]
    try:
        tf.config.run_functions_eagerly(True)
        expected = [plain.train(step) for step in range(3)]
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for one, other in zip(compiled.state(), plain.state(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def test_xla_repeats_dropout():
    run = Run(PLAIN, dropout=(0.3, 0.3), xla=True)
    order, rate = tf.constant(epoch_order(5, 0, IMAGES)), tf.constant([0.0])
    # Of the same images and weights.
    found = [float(run.step.run(order, 0, step, rate)[0][0]) for step in (0, 1, 0)]
    assert np.isfinite(found).all() and found[0] == found[2] != found[1]
