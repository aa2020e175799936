"""The limit: the network's convolutions alone, forward and backward, as oneDNN does them.

Each convolution has its own arrays, as in a step: the cache holds few of them. The gradient of the
first one's input is not computed, nor that of any bias.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness import Turns, processor, serve

processor.prepare_tensorflow()

import tensorflow as tf


def shapes() -> Iterator[tuple[int, int, int, int, int]]:
    """Size of the image, channels in and out, size of the kernel, stride; in ResNet-20's order."""
    yield 32, 3, 16, 3, 1
    size, channels = 32, 16
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if filters > 16 and not block else 1
            yield size, channels, filters, 3, stride
            if stride == 2:
                yield size, channels, filters, 1, stride
            size, channels = size // stride, filters
            yield size, filters, filters, 3, 1


def train(precision: str, batch_size: int, images: int, turns: Turns) -> None:
    """Rounds of as many convolutions as training steps have."""

    def random(*shape):
        return tf.cast(tf.random.normal(shape), precision)

    convolutions = [
        (
            random(batch_size, size, size, channels),
            random(kernel, kernel, channels, filters),
            random(batch_size, size // stride, size // stride, filters),
            [1, stride, stride, 1],
        )
        for size, channels, filters, kernel, stride in shapes()
    ]

    @tf.function(autograph=False)
    def run():
        results = []

        def after_the_last(function, **arguments):
            with tf.control_dependencies(results[-1:]):
                results.append(function(padding="SAME", **arguments))

        for x, kernel, _, strides in convolutions:
            after_the_last(tf.raw_ops.Conv2D, input=x, filter=kernel, strides=strides)
        for index in reversed(range(len(convolutions))):
            x, kernel, dy, strides = convolutions[index]
            after_the_last(
                tf.raw_ops.Conv2DBackpropFilter,
                input=x,
                filter_sizes=kernel.shape,
                out_backprop=dy,
                strides=strides,
            )
            if index:
                after_the_last(
                    tf.raw_ops.Conv2DBackpropInput,
                    input_sizes=x.shape,
                    filter=kernel,
                    out_backprop=dy,
                    strides=strides,
                )
        # Without a use of its own each convolution would be optimized away.
        return tf.stack([tf.cast(result[0, 0, 0, 0], tf.float32) for result in results])

    while True:
        for _ in range(images // batch_size):
            run().numpy()
        turns()


if __name__ == "__main__":
    serve(train=train)
