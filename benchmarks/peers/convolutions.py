"""The limit: the network's convolutions alone, forward and backward, as oneDNN does them.

Each convolution has its own arrays, as in a step: the cache holds few of them. The gradient of the
first one's input is not computed, nor that of any bias.
"""

from __future__ import annotations

from harness import Turns, processor, serve

processor.prepare_tensorflow()

import keras
import tensorflow as tf

from peers import fit


def train(precision: str, batch_size: int, images: int, turns: Turns) -> None:
    """Rounds of as many convolutions as training steps have."""

    def random(*shape):
        return tf.cast(tf.random.normal(shape), precision)

    convolutions = [
        (
            random(batch_size, *layer.input.shape[1:]),
            random(*layer.kernel.shape),
            random(batch_size, *layer.output.shape[1:]),
            {"strides": [1, *layer.strides, 1], "padding": "SAME"},
        )
        for layer in fit.network(keras).layers
        if isinstance(layer, keras.layers.Conv2D)
    ]

    @tf.function(autograph=False)
    def run():
        results = []

        def after_the_last(function, *arguments, **options):
            with tf.control_dependencies(results[-1:]):
                results.append(function(*arguments, **options))

        for x, kernel, _, options in convolutions:
            after_the_last(tf.nn.conv2d, x, kernel, **options)
        for index, (x, kernel, dy, options) in reversed(list(enumerate(convolutions))):
            after_the_last(tf.compat.v1.nn.conv2d_backprop_filter, x, kernel.shape, dy, **options)
            if index:
                after_the_last(tf.nn.conv2d_transpose, dy, kernel, x.shape, **options)
        # Without a use of its own each convolution would be optimized away.
        return tf.stack([tf.cast(result[0, 0, 0, 0], tf.float32) for result in results])

    while True:
        for _ in range(images // batch_size):
            run().numpy()
        turns()


if __name__ == "__main__":
    serve(train=train)
