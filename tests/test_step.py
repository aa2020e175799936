"""TrainStep.py: a step of training is the step of the textbook, and it can be repeated."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_network import keras_example, random_weights

from Configure import training_configs
from ImageUtils import batch_part, pixel_mean
from Network import resnet_v1, updated_variables
from training.optimizers import make_optimizer
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
RANDOM = {**PLAIN, "flip": True, "crop_pad": 2, "mixup_alpha": 0.3, "ema_decay": 0.9}

generator = np.random.default_rng(8)
X = generator.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8)
Y = generator.integers(0, CLASSES, IMAGES, np.int32)


class Run:
    """A small network in training."""

    def __init__(self, configs, dropout=(0.0, 0.0), seed=5, xla=False):
        self.configs, self.seed = configs, seed
        self.network = resnet_v1(**INTEGERS, dropout=dropout)
        self.network.set_weights(random_weights(self.network))
        self.average = None
        if configs["ema_decay"]:
            self.average = resnet_v1(**INTEGERS)
            self.average.set_weights(self.network.get_weights())
        variables = [variable.value for variable in updated_variables(self.network)]
        self.optimizer = make_optimizer(variables, configs)
        self.step = TrainStep(
            self.network,
            variables,
            self.optimizer,
            self.average,
            X,
            Y,
            pixel_mean(X),
            seed,
            configs,
            xla=xla,
        )

    def train(self, step, rate=1e-2):
        """Step ``step`` of epoch 0; returns mean loss and right answers."""
        (loss,), (right,) = self.train_on(step, [rate])
        return loss, right

    def train_on(self, step, rates):
        """Steps from ``step`` on in one call; returns their mean losses and right answers."""
        losses, right, _ = self.step.run(
            tf.constant(epoch_order(self.seed, 0, IMAGES)),
            step * BATCH,
            step,
            rates,
            False,
        )
        return losses.numpy().tolist(), right.numpy().tolist()

    def state(self):
        """Everything that a step changes, as arrays."""
        networks = [one for one in (self.network, self.average) if one is not None]
        variables = [v for one in networks for v in one.weights] + self.optimizer.variables
        return [np.array(variable) for variable in variables]

    def restore(self, state):
        state = iter(state)
        for network in (self.network, self.average):
            network.set_weights([next(state) for _ in network.weights])
        for variable in self.optimizer.variables:
            variable.assign(next(state))


def plain_batch(step, seed=5):
    """The images of one step, normalized, and their one-hot labels, by NumPy."""
    chosen = epoch_order(seed, 0, IMAGES)[step * BATCH :][:BATCH]
    images = (X[chosen] / 255 - X.mean(axis=0) / 255).astype(np.float32)
    return images, np.eye(CLASSES, dtype=np.float32)[Y[chosen]]


def arrays_equal(ones, others):
    return [np.array_equal(one, other) for one, other in zip(ones, others, strict=True)]


# The update


@pytest.mark.parametrize(
    ("overrides", "rate", "optimizer"),
    [
        ({"optimizer": "adam"}, 1e-2, keras.optimizers.Adam),
        ({"optimizer": "rmsprop"}, 1e-3, keras.optimizers.RMSprop),
        (
            {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
            0.05,
            lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_three_steps_are_those_of_stock_pieces_with_l2_in_the_loss(overrides, rate, optimizer):
    run = Run({**PLAIN, **overrides})
    start = run.network.get_weights()
    stock = keras_example(**INTEGERS, l2=PLAIN["l2"], activation=None)
    stock.set_weights(start)
    # A bias before batch norm has a gradient of zero but for rounding, which Adam blows up.
    cancelled = {
        id(layer.bias)
        for layer in stock.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
    }
    trained = [v for v in stock.trainable_variables if id(v) not in cancelled]
    optimizer = optimizer(rate)
    entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    for step in range(3):
        loss, right = run.train(step, rate)
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


def test_biases_before_batch_norm_stay_and_everything_else_moves():
    run = Run(PLAIN)
    start = run.network.get_weights()
    run.train(0)
    same = arrays_equal(start, run.network.get_weights())
    stayed = {v.path for v, stays in zip(run.network.weights, same, strict=True) if stays}
    updated = {v.path for v in updated_variables(run.network)}
    assert stayed == {v.path for v in run.network.trainable_variables} - updated


def test_the_loss_does_not_contain_l2():
    light, heavy = Run({**PLAIN, "l2": 0.0}), Run({**PLAIN, "l2": 1.0})
    assert light.train(0)[0] == pytest.approx(heavy.train(0)[0], rel=1e-5)
    assert light.train(1)[0] != pytest.approx(heavy.train(1)[0], rel=1e-3)


def test_run_returns_the_mean_loss_and_the_number_of_right_answers():
    run = Run(PLAIN)
    for step in range(3):
        images, labels = plain_batch(step)
        # At rate 0 the weights stay, and the statistics play no part in training.
        logits = run.network(images, training=True).numpy().astype(np.float64)
        losses = np.log(np.exp(logits).sum(axis=1)) - (logits * labels).sum(axis=1)
        right = (logits.argmax(axis=1) == labels.argmax(axis=1)).sum()
        assert run.train(step, rate=0.0) == (pytest.approx(losses.mean(), rel=1e-5), right)


def test_the_average_follows_its_closed_form():
    decay = 0.9
    run = Run({**PLAIN, "ema_decay": decay})
    history = [run.network.get_weights()]
    for step in range(3):
        run.train(step)
        history.append(run.network.get_weights())
    for index, shadow in enumerate(run.average.get_weights()):
        first, *later = (weights[index].astype(np.float64) for weights in history)
        expected = decay**3 * first
        for power, value in zip((2, 1, 0), later, strict=True):
            expected += (1 - decay) * decay**power * value
        np.testing.assert_allclose(shadow, expected, rtol=1e-5, atol=1e-6)


def test_the_average_does_not_disturb_the_training():
    plain, averaged = Run(PLAIN), Run({**PLAIN, "ema_decay": 0.9})
    for step in range(2):
        plain.train(step)
        averaged.train(step)
    weights = (one.network.get_weights() for one in (plain, averaged))
    for found, expected in zip(*weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# Order and batches


def test_each_epoch_has_its_own_order_of_all_the_images():
    orders = [epoch_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int32
        assert sorted(order) == list(range(50)) != order.tolist()
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(epoch_order(0, 1, 50), orders[1])


def test_seed_and_epoch_do_not_stand_for_each_other():
    assert epoch_order(0, 1, 50).tolist() != epoch_order(1, 0, 50).tolist()
    assert step_seed(3, 4).numpy().tolist() == [3, 4]
    assert step_seed(3, tf.constant(4)).dtype == tf.int64


def batch(configs, first=0, count=BATCH, step=0):
    part = batch_part(first, count, BATCH, configs)
    return training_batch(
        tf.gather(X, part.positions),
        tf.gather(Y, part.positions),
        tf.constant(pixel_mean(X)),
        step_seed(5, step),
        part,
        configs,
        CLASSES,
    )


def test_a_plain_batch_is_normalized_with_one_hot_labels():
    images, labels = batch(PLAIN)
    np.testing.assert_allclose(images, X[:BATCH] / 255 - X.mean(axis=0) / 255, atol=1e-6)
    np.testing.assert_array_equal(labels, np.eye(CLASSES)[Y[:BATCH]])


def test_label_smoothing_spreads_its_share_over_all_classes():
    _, labels = batch({**PLAIN, "label_smoothing": 0.2})
    np.testing.assert_allclose(labels, 0.8 * np.eye(CLASSES)[Y[:BATCH]] + 0.05, rtol=1e-6)


def test_label_smoothing_after_mixup_still_adds_up_to_one():
    _, mixed = batch(RANDOM)
    _, labels = batch({**RANDOM, "label_smoothing": 0.2})
    np.testing.assert_allclose(labels, 0.8 * mixed + 0.05, rtol=1e-6)
    np.testing.assert_allclose(np.sum(labels, axis=1), 1, rtol=1e-6)


def test_parts_of_a_training_batch_are_the_rows_of_the_whole():
    whole = batch(RANDOM)
    parts = [batch(RANDOM, first, 2) for first in (0, 2, 4)]
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_the_step_trains_on_the_batch_of_training_batch():
    run = Run(RANDOM)
    part = batch_part(0, BATCH, BATCH, RANDOM)
    chosen = epoch_order(5, 0, IMAGES)[BATCH : 2 * BATCH][part.positions.numpy()]
    images, labels = training_batch(
        tf.constant(X[chosen]),
        tf.constant(Y[chosen]),
        tf.constant(pixel_mean(X)),
        step_seed(5, 1),
        part,
        RANDOM,
        CLASSES,
    )
    logits = run.network(images, training=True)
    expected = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    assert run.train(1, rate=0.0)[0] == pytest.approx(float(expected), rel=1e-5)


# Repetition


def test_two_runs_with_all_that_is_random_end_bit_for_bit_the_same():
    one, other = (Run(RANDOM, dropout=(0.1, 0.2)) for _ in range(2))
    for step in range(3):
        assert one.train(step) == other.train(step)
    assert all(arrays_equal(one.state(), other.state()))


def test_a_run_goes_on_from_its_state_bit_for_bit():
    whole, resumed = Run(RANDOM, dropout=(0.1, 0.2)), Run(RANDOM, dropout=(0.1, 0.2))
    for step in range(2):
        whole.train(step)
    resumed.restore(whole.state())
    assert whole.train(2) == resumed.train(2)
    assert all(arrays_equal(whole.state(), resumed.state()))


@pytest.mark.parametrize("xla", [False, True])
def test_steps_in_one_call_are_those_of_single_calls_in_their_order(xla):
    single, joint = (Run(RANDOM, dropout=(0.1, 0.2), xla=xla) for _ in range(2))
    rates = [1e-2, 1e-4, 1e-3]
    expected = [single.train(step, rate) for step, rate in enumerate(rates)]
    first, later = joint.train_on(0, rates[:1]), joint.train_on(1, rates[1:])
    assert [*zip(*first, strict=True), *zip(*later, strict=True)] == expected
    assert all(arrays_equal(single.state(), joint.state()))


@pytest.mark.parametrize(
    "overrides", [{"flip": True}, {"crop_pad": 2}, {"mixup_alpha": 0.3}, {"dropout": (0.3, 0.0)}]
)
def test_each_source_of_randomness_differs_from_step_to_step(overrides):
    dropout = overrides.get("dropout", (0.0, 0.0))
    run = Run({**PLAIN, **{k: v for k, v in overrides.items() if k != "dropout"}}, dropout)
    order = tf.constant(epoch_order(5, 0, IMAGES))

    def loss(step):
        """Of the same images and weights at another step."""
        return float(run.step.run(order, 0, step, [0.0], False)[0][0])

    assert loss(0) == loss(0)
    assert len({loss(step) for step in range(4)}) > 1


def test_xla_computes_the_same():
    plain, compiled = (Run(RANDOM, xla=xla) for xla in (False, True))
    for step in range(3):
        np.testing.assert_allclose(compiled.train(step), plain.train(step), rtol=1e-4)
    for one, other in zip(compiled.state(), plain.state(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def test_other_seeds_give_other_runs():
    configs = {**RANDOM, "ema_decay": 0.0}
    one, other = Run(configs, seed=5), Run(configs, seed=6)
    assert one.train(0)[0] != other.train(0)[0]
