"""training/layers.py: three layers that do what Keras's do, faster or more exactly."""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.layers import BatchNormalization, Conv2D, Dropout, dropout_stream

CHANNELS = 3
FEW = (2, 2, 2, CHANNELS)  # eight numbers a channel: a variance over 7 is far from one over 8


def random(shape, seed=0, mean=0.0):
    return tf.constant(np.random.default_rng(seed).normal(mean, 1, shape), tf.float32)


def assert_close(found, expected, bound):
    np.testing.assert_allclose(
        tf.cast(found, tf.float32), tf.cast(expected, tf.float32), rtol=bound, atol=bound
    )


# BatchNormalization


def norms(dtype="float32"):
    """Ours and Keras's, momentum low enough to see the statistics move, no weight neutral."""
    generator = np.random.default_rng(7)
    weights = [
        generator.uniform(0.5, 2, CHANNELS),  # gamma
        generator.normal(0, 1, CHANNELS),  # beta
        generator.normal(0, 1, CHANNELS),  # moving mean
        generator.uniform(0.5, 2, CHANNELS),  # moving variance
    ]
    pair = [
        kind(momentum=0.9, epsilon=1e-3, dtype=dtype)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    ]
    for layer in pair:
        layer.build(FEW)
        layer.set_weights(weights)
    return pair


def test_batch_norm_has_the_gradients_of_keras():
    x, upstream = random(FEW, 1, mean=2), random(FEW, 2)
    gradients = []
    for layer in norms():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) * upstream)
        gradients.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
    for found, expected in zip(*gradients, strict=True):
        assert np.abs(expected).max() > 0.1
        assert_close(found, expected, 1e-5)


def test_batch_norm_trains_and_moves_the_statistics_as_keras_does():
    ours, stock = norms()
    before = stock.get_weights()[2:]
    for batch in range(6):
        x = random(FEW, batch, mean=batch)
        assert_close(ours(x, training=True), stock(x, training=True), 1e-5)
    for found, expected, old in zip(
        ours.get_weights()[2:], stock.get_weights()[2:], before, strict=True
    ):
        assert (np.abs(expected - old) > 0.01).all()
        assert_close(found, expected, 1e-5)


def test_batch_norm_infers_from_the_moving_statistics_and_leaves_them():
    ours, stock = norms()
    weights = ours.get_weights()
    x = random(FEW, mean=2)
    assert_close(ours(x, training=False), stock(x, training=False), 1e-5)
    assert_close(ours(x), stock(x), 1e-5)
    for found, expected in zip(ours.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_bfloat16_keeps_float32_statistics(training):
    ours, stock = norms("mixed_bfloat16")
    for batch in range(3):
        x = tf.cast(random(FEW, batch, mean=2), tf.bfloat16)
        found, expected = ours(x, training=training), stock(x, training=training)
        assert found.dtype == expected.dtype == tf.bfloat16
        assert_close(found, expected, 2**-7)
    assert {v.dtype for v in ours.weights} == {"float32"}
    for found, expected in zip(ours.get_weights(), stock.get_weights(), strict=True):
        assert_close(found, expected, 1e-5)


class Exchange:
    """The replica context of two threads that add up what they have."""

    num_replicas_in_sync = 2

    def __init__(self):
        self._all_here = threading.Barrier(2, timeout=60)
        self._parts = {}

    def all_reduce(self, _, part):
        self._parts[threading.get_ident()] = part
        self._all_here.wait()
        total = tf.add_n(list(self._parts.values()))
        self._all_here.wait()
        return total


@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-5), ("mixed_bfloat16", 2**-6)], ids=["float32", "bfloat16"]
)
def test_batch_norm_of_two_replicas_is_that_of_the_whole_batch(dtype, bound, monkeypatch):
    kind = tf.bfloat16 if dtype == "mixed_bfloat16" else tf.float32
    # The replicas' means and variances differ: neither may be taken for that of the whole.
    x = tf.cast(tf.concat([random(FEW, 0, mean=2), 3 * random(FEW, 1, mean=-1)], 0), kind)
    dy = tf.cast(random(x.shape, seed=2, mean=1), kind)

    def learn(layer, x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        sources = [x, layer.gamma.value, layer.beta.value]
        return y, *tape.gradient(y, sources, output_gradients=dy)

    whole = norms(dtype)[0]
    y, dx, dgamma, dbeta = learn(whole, x, dy)
    exchange = Exchange()
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: exchange)
    replicas = [norms(dtype)[0] for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(learn, replicas, tf.split(x, 2), tf.split(dy, 2))
        ys, dxs, dgammas, dbetas = zip(*found, strict=True)
    for parts, expected in ((ys, y), (dxs, dx)):
        assert_close(tf.concat(parts, 0), expected, bound)
    for parts, expected in ((dgammas, dgamma), (dbetas, dbeta)):
        assert_close(tf.add_n(parts), expected, bound)
    for layer in replicas:
        for one, expected in zip(layer.get_weights(), whole.get_weights(), strict=True):
            assert_close(one, expected, 1e-5)


# Conv2D


def convolutions(kernel_size=3, **kwargs):
    """Ours and Keras's with the same kernel and a bias that is not zero."""
    arguments = {"filters": 4, "kernel_size": kernel_size, "strides": 2, "padding": "same"}
    ours, stock = Conv2D(**arguments, **kwargs), keras.layers.Conv2D(**arguments)
    for layer in (ours, stock):
        layer.build((None, 6, 6, CHANNELS))
    stock.set_weights([stock.kernel.numpy(), np.array([0.1, -0.2, 0.3, -0.4])])
    ours.set_weights(stock.get_weights())
    return ours, stock


def output_and_gradients(layer):
    x = random((2, 6, 6, CHANNELS))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(y * random(y.shape, 1))
    return y, *tape.gradient(loss, [x, layer.kernel.value, layer.bias.value])


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("bias_gradient", [False, True])
def test_convolution_gives_the_output_and_gradients_of_keras(bias_gradient, kernel_size):
    ours, stock = convolutions(kernel_size, bias_gradient=bias_gradient)
    *found, found_bias = output_and_gradients(ours)
    *expected, expected_bias = output_and_gradients(stock)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-5)
    if bias_gradient:
        assert_close(found_bias, expected_bias, 1e-5)
    else:
        assert found_bias is None


def test_a_narrow_shortcut_of_an_odd_batch_does_not_write_past_its_memory():
    x = random((25, 32, 32, 2))
    layer = Conv2D(4, 1, strides=2, padding="same")
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    gradient = tape.gradient(loss, layer.kernel.value)
    # The stock layer ends the process now and then, on some processors only. The graph tells on all
    # of them: no convolution in it has the strides for which oneDNN has that kernel.
    graph = tf.function(layer).get_concrete_function(x).graph
    strides = [op.get_attr("strides") for op in graph.get_operations() if op.type == "Conv2D"]
    assert strides == [[1, 1, 1, 1]]
    expected = tf.reduce_sum(x[:, ::2, ::2], axis=[0, 1, 2])
    assert_close(gradient[0, 0], tf.repeat(expected[:, None], 4, axis=1), 1e-3)


# Dropout

SEED = tf.constant([11, 12], tf.int64)


def mask(layer, shape, seed=SEED, first=0):
    """What ``layer`` makes of ones: 0 where it drops."""
    with dropout_stream(seed, first):
        return layer(tf.ones(shape), training=True).numpy()


def test_dropout_outside_a_stream_is_that_of_keras():
    x = random((4, 4, 4, 4))
    ours, stock = Dropout(0.4, seed=5), keras.layers.Dropout(0.4, seed=5)
    for _ in range(2):
        found, expected = ours(x, training=True).numpy(), stock(x, training=True).numpy()
        assert (expected == 0).any()
        np.testing.assert_array_equal(found, expected)


def test_a_stream_ends_with_its_context_even_after_an_error():
    layer, x = Dropout(0.5, seed=5), tf.ones((4, 4, 4, 4))
    with pytest.raises(RuntimeError), dropout_stream(SEED):
        raise RuntimeError
    first, second = (layer(x, training=True).numpy() for _ in range(2))
    assert (first != second).any()  # Keras's own state moves on


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_dropout_drops_its_share_and_scales_the_rest(rate):
    kept = mask(Dropout(rate, seed=1), (16, 16, 16, 4))
    dropped = kept == 0
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(dropped.mean() - rate) < 4 * deviation
    np.testing.assert_allclose(kept[~dropped], 1 / (1 - rate), rtol=1e-6)


def test_dropout_repeats_for_a_seed_and_differs_between_seeds_layers_and_images():
    shape = (8, 4, 4, 4)
    one, other = Dropout(0.5, seed=1), Dropout(0.5, seed=2)
    first = mask(one, shape)
    np.testing.assert_array_equal(first, mask(one, shape))
    np.testing.assert_array_equal(first, mask(Dropout(0.5, seed=1), shape))
    # Half of the places of two independent masks agree.
    for different in (
        mask(one, shape, tf.constant([11, 13], tf.int64)),
        mask(one, shape, tf.constant([10, 12], tf.int64)),
        mask(other, shape),
        mask(one, shape, first=1),
    ):
        assert 0.35 < (first == different).mean() < 0.65
    assert len(np.unique(first.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("image_shape", [(8, 8, 4), (2, 2, 1), (2, 6, 3), (1, 1, 4)])
@pytest.mark.parametrize("replicas", [2, 4])
def test_parts_of_a_batch_drop_what_the_whole_batch_would(image_shape, replicas):
    layer = Dropout(0.3, seed=2)
    whole = mask(layer, (8, *image_shape))
    size = 8 // replicas
    parts = [mask(layer, (size, *image_shape), first=replica * size) for replica in range(replicas)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_bfloat16_drops_what_float32_does():
    single, half = Dropout(0.25, seed=1), Dropout(0.25, seed=1, dtype="mixed_bfloat16")
    with dropout_stream(SEED):
        y = half(tf.ones((4, 4, 4, 4)), training=True)
    assert y.dtype == tf.bfloat16
    assert_close(y, mask(single, (4, 4, 4, 4)), 2**-8)


@pytest.mark.parametrize(
    ("rate", "arguments"), [(0.5, {}), (0.5, {"training": False}), (0.0, {"training": True})]
)
def test_dropout_of_nothing_and_dropout_in_inference_change_nothing(rate, arguments):
    x = random((2, 4, 4, 4))
    with dropout_stream(SEED):
        np.testing.assert_array_equal(Dropout(rate, seed=1)(x, **arguments), x)
