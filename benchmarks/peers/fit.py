"""Keras of either generation: stock layers and optimizer, ``fit``, ``predict``, ``tf.data``.

``python -m peers.fit keras`` is Keras 3, whose batch norm is not fused; with ``tf_keras`` it is
Keras 2, whose is. The augmentation is written the way the documentation shows it, image by image in
``Dataset.map``; mixup takes the next image of the batch, which is cheaper than the documentation's
second data set.
"""

from __future__ import annotations

import importlib
import sys

import tensorflow as tf

from harness import Turns, noise, serve

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def network(keras):
    """ResNet-20 v1 of the Keras example (274,442 parameters) with dropout; logits."""
    layers = keras.layers

    def convolution(x, filters, size, stride):
        return layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(1e-4),
        )(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(layers.BatchNormalization()(convolution(inputs, 16, 3, 1)))
    for stack, filters in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stack and not block else 1
            y = layers.ReLU()(layers.BatchNormalization()(convolution(x, filters, 3, stride)))
            y = layers.BatchNormalization()(convolution(y, filters, 3, 1))
            if stride != 1:
                x = convolution(x, filters, 1, stride)
            x = layers.ReLU()(layers.Add()([x, y]))
        if stack:
            x = layers.Dropout(0.1 * stack)(x)
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, dtype="float32")(x))


def _augmented(x, y, batch_size: int) -> tf.data.Dataset:
    mean = tf.constant(x.mean(axis=0) / 255.0, tf.float32)

    def prepare(image, label):
        image = tf.cast(image, tf.float32) / 255.0 - mean
        image = tf.image.random_flip_left_right(image)
        image = tf.image.resize_with_crop_or_pad(image, 40, 40)
        return tf.image.random_crop(image, (32, 32, 3)), tf.one_hot(label, 10)

    def mix(images, labels):
        gamma = tf.random.gamma([2, batch_size], 0.2)
        weight = gamma[0] / (gamma[0] + gamma[1] + 1e-20)
        x_weight, y_weight = weight[:, None, None, None], weight[:, None]
        return (
            images * x_weight + tf.roll(images, 1, 0) * (1 - x_weight),
            labels * y_weight + tf.roll(labels, 1, 0) * (1 - y_weight),
        )

    data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().shuffle(10_000)
    data = data.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(batch_size, drop_remainder=True)
    return data.map(mix, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def modes(keras) -> dict:
    """The functions for ``harness.serve``, with the module ``keras`` or ``tf_keras``."""

    def train(precision: str, batch_size: int, images: int, turns: Turns) -> None:
        """Rounds are epochs of one endless ``Model.fit``."""
        keras.mixed_precision.set_global_policy(_POLICIES[precision])
        model = network(keras)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        model.fit(
            _augmented(*noise(), batch_size),
            epochs=1_000_000,
            steps_per_epoch=images // batch_size,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: turns())],
            verbose=0,
        )

    def infer(precision: str, batch_size: int, images: int, turns: Turns) -> None:
        """Rounds of ``Model.predict``, from float32 that is normalized before."""
        keras.mixed_precision.set_global_policy(_POLICIES[precision])
        model, x = network(keras), noise(images)[0].astype("float32") / 255
        while True:
            model.predict(x, batch_size=batch_size, verbose=0)
            turns()

    return {"train": train, "infer": infer}


if __name__ == "__main__":
    serve(**modes(importlib.import_module(sys.argv.pop(1))))
