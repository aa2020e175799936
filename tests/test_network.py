"""Network.py: the Keras example's ResNet v1, weight for weight and number for number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from Network import folded_weights, resnet_v1
from training.layers import BatchNormalization, Conv2D, Dropout, l2_kernels, updated_variables

SMALL = {"input_shape": (16, 16, 3), "depth": 8, "width": 4}


def keras_example(
    input_shape=(32, 32, 3), depth=20, num_classes=10, width=16, l2=1e-4, activation="softmax"
):
    """``resnet_v1`` of keras-team/keras, examples/cifar10_resnet.py at v2.3.0, of stock layers."""

    def resnet_layer(x, filters, kernel_size=3, strides=1, activation="relu", normalize=True):
        x = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(l2),
        )(x)
        if normalize:
            x = keras.layers.BatchNormalization()(x)
        return keras.layers.Activation(activation)(x) if activation else x

    inputs = keras.Input(input_shape)
    x = resnet_layer(inputs, width)
    filters = width
    for stack in range(3):
        for block in range((depth - 2) // 6):
            strides = 2 if stack > 0 and block == 0 else 1
            y = resnet_layer(x, filters, strides=strides)
            y = resnet_layer(y, filters, activation=None)
            if strides == 2:
                x = resnet_layer(x, filters, 1, strides, activation=None, normalize=False)
            x = keras.layers.Activation("relu")(keras.layers.add([x, y]))
        filters *= 2
    x = keras.layers.AveragePooling2D(input_shape[0] // 4)(x)  # 8 in the example
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(
        num_classes, activation=activation, kernel_initializer="he_normal"
    )(x)
    return keras.Model(inputs, outputs)


def random_weights(network, seed=0):
    """Weights as if long trained: no bias, statistic, scale or offset is zero or one."""
    generator = np.random.default_rng(seed)

    def draw(variable):
        kind, shape = variable.path.split("/")[-1], variable.shape
        if kind in ("gamma", "moving_variance"):
            return generator.uniform(0.5, 1.5, shape)
        deviation = np.sqrt(2 / np.prod(shape[:-1])) if kind == "kernel" else 0.3
        return generator.normal(0, deviation, shape)

    return [draw(variable).astype(np.float32) for variable in network.weights]


def random_images(count, input_shape=(16, 16, 3), seed=1):
    return tf.constant(np.random.default_rng(seed).normal(0, 0.5, (count, *input_shape)), "float32")


def pair(**integers):
    """Our network and the example's, without its softmax, with the same weights."""
    ours, stock = resnet_v1(**integers), keras_example(**integers, activation=None)
    stock.set_weights(random_weights(stock))
    ours.set_weights(stock.get_weights())
    return ours, stock


def layers_of(network, *kinds):
    return [layer for layer in network.layers if isinstance(layer, kinds)]


def assert_close_to_largest(found, expected, relative):
    """Equal to ``relative`` times the largest expected number."""
    bound = relative * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


# Shapes


def test_dropout_follows_the_second_and_the_third_stack():
    network = resnet_v1(**SMALL, dropout=(0.1, 0.2))
    drops = layers_of(network, Dropout)
    assert [layer.rate for layer in drops] == [0.1, 0.2]
    assert [layer.output.shape for layer in drops] == [(None, 8, 8, 8), (None, 4, 4, 16)]
    order = "".join(
        "D" if isinstance(layer, Dropout) else "c" for layer in layers_of(network, Conv2D, Dropout)
    )
    assert order == "c" + "cc" + "cccDcccD"
    assert drops[0].seed != drops[1].seed


def test_a_network_is_the_same_on_images_of_another_size():
    network, smaller = resnet_v1(**SMALL), resnet_v1((12, 12, 3), 8, width=4)
    smaller.set_weights(network.get_weights())
    images = random_images(2, (12, 12, 3))
    np.testing.assert_array_equal(network(images), smaller(images))


@pytest.mark.parametrize(
    ("depth", "nearest"), [(21, "20 and 26"), (2, "8 and 14"), (-4, "8 and 14")]
)
def test_a_depth_of_no_network_is_refused_with_the_nearest_ones(depth, nearest):
    with pytest.raises(ValueError, match=rf"6n \+ 2 .*, found {depth}; the nearest are {nearest}"):
        resnet_v1(depth=depth)


# The same network as the Keras example


@pytest.mark.parametrize("depth", [8, 20])
def test_weights_have_the_shapes_and_the_order_of_the_keras_example(depth):
    ours, stock = resnet_v1(depth=depth), keras_example(depth=depth)

    def kinds(variables):
        return [(v.path.split("/")[-1], v.shape) for v in variables]

    assert kinds(ours.weights) == kinds(stock.weights)
    assert kinds(ours.trainable_variables) == kinds(stock.trainable_variables)


def test_depth_20_computes_the_probabilities_of_the_keras_example():
    ours, stock = resnet_v1(), keras_example()
    weights = random_weights(stock)
    ours.set_weights(weights)
    stock.set_weights(weights)
    images = random_images(4, (32, 32, 3))
    probabilities = stock(images, training=False).numpy()
    assert probabilities.std() > 0.05  # the comparison says something
    np.testing.assert_allclose(
        tf.nn.softmax(ours(images, training=False)), probabilities, rtol=0, atol=1e-5
    )


def test_the_keras_example_loads_our_weights_file(tmp_path):
    ours = resnet_v1(**SMALL, dropout=(0.1, 0.2))
    ours.set_weights(random_weights(ours))
    ours.save_weights(tmp_path / "ours.weights.h5")
    stock = keras_example(**SMALL)
    stock.load_weights(tmp_path / "ours.weights.h5")
    images = random_images(4)
    np.testing.assert_allclose(
        tf.nn.softmax(ours(images, training=False)),
        stock(images, training=False),
        rtol=0,
        atol=1e-5,
    )


def test_our_network_loads_a_weights_file_of_the_keras_example(tmp_path):
    stock = keras_example(**SMALL)
    stock.set_weights(random_weights(stock))
    stock.save_weights(tmp_path / "stock.weights.h5")
    ours = resnet_v1(**SMALL)
    ours.load_weights(tmp_path / "stock.weights.h5")
    for found, expected in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


# Initial weights


def test_kernels_start_he_normal_and_the_rest_neutral():
    network = resnet_v1((8, 8, 3), 8, width=32)
    for variable in network.weights:
        kind, values = variable.path.split("/")[-1], variable.numpy()
        if kind == "kernel":
            deviation = np.sqrt(2 / np.prod(values.shape[:-1]))
            # Of a sample of n normal numbers the deviation is off by a share 1/sqrt(2n).
            assert values.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * values.size))
            assert abs(values.mean()) < 5 * deviation / np.sqrt(values.size)
            assert np.abs(values).max() < 2.3 * deviation  # cut off at two deviations, rescaled
        else:
            assert (values == (1.0 if kind in ("gamma", "moving_variance") else 0.0)).all()


def test_kernels_of_one_shape_start_different():
    first, second = (
        resnet_v1(**SMALL).get_layer(f"stack1_block1_conv{number}").kernel.numpy()
        for number in (1, 2)
    )
    assert first.shape == second.shape and (first != second).all()


def test_the_seed_decides_the_initial_weights_and_nothing_else_does():
    weights = resnet_v1(**SMALL, seed=3).get_weights()
    again = resnet_v1(**SMALL, seed=3).get_weights()
    bfloat16 = resnet_v1(**SMALL, seed=3, precision="bfloat16").get_weights()
    other = resnet_v1(**SMALL, seed=4).get_weights()
    for one, same, half, different in zip(weights, again, bfloat16, other, strict=True):
        np.testing.assert_array_equal(one, same)
        np.testing.assert_array_equal(one, half)
        assert one.ndim == 1 or (one != different).all()


# Parts of the network


def test_the_variables_not_updated_are_those_that_training_cannot_feel():
    network = resnet_v1(**SMALL)
    network.set_weights(random_weights(network))
    images = random_images(4)
    logits = network(images, training=True).numpy()
    generator = np.random.default_rng(5)
    without_effect = []
    for variable in network.trainable_variables:
        value = variable.numpy()
        variable.assign(value + generator.normal(0, 0.3, value.shape))
        changed = np.abs(network(images, training=True).numpy() - logits).max()
        variable.assign(value)
        assert changed < 1e-4 or changed > 1e-2
        if changed < 1e-4:
            without_effect.append(variable.path)
    updated = [v.path for v in updated_variables(network)]
    left_out = [v.path for v in network.trainable_variables if v.path not in updated]
    assert left_out == without_effect
    assert len(left_out) == 7 and all(path.endswith("/bias") for path in left_out)
    assert updated == [v.path for v in network.trainable_variables if v.path not in left_out]


def test_l2_of_our_kernels_is_the_loss_of_the_keras_examples_regularizers():
    ours, stock = pair(**SMALL)
    expected = float(sum(stock.losses))
    assert 1e-4 * sum(np.sum(k.numpy() ** 2) for k in l2_kernels(ours)) == pytest.approx(expected)


@pytest.mark.parametrize("depth", [8, 14])
def test_a_folded_network_gives_the_same_logits(depth):
    integers = {**SMALL, "depth": depth}
    network, folded = resnet_v1(**integers, dropout=(0.1, 0.2)), resnet_v1(**integers, folded=True)
    network.set_weights(random_weights(network))
    folded.set_weights(folded_weights(network, folded))
    assert not layers_of(folded, BatchNormalization, Dropout)
    images = random_images(4)
    assert_close_to_largest(folded(images, training=False), network(images, training=False), 1e-4)


def test_folding_leaves_the_network_as_it_was():
    network, folded = resnet_v1(**SMALL), resnet_v1(**SMALL, folded=True)
    weights = random_weights(network)
    network.set_weights(weights)
    assert {array.dtype for array in folded_weights(network, folded)} == {np.dtype(np.float32)}
    for found, expected in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_gives_float32_logits_close_to_those_of_float32(training):
    network = resnet_v1(**SMALL)
    half = resnet_v1(**SMALL, precision="bfloat16")
    network.set_weights(random_weights(network))
    half.set_weights(network.get_weights())
    images = random_images(8)
    expected, found = network(images, training=training), half(images, training=training)
    assert found.dtype == tf.float32
    assert {v.dtype for v in half.weights} == {"float32"}
    assert half.get_layer("stack3_block1_conv2").output.dtype == "bfloat16"
    assert_close_to_largest(found, expected, 0.03)
    assert np.abs(found - expected).max() > 1e-5  # it was not float32 all along
