"""The limit: the network's convolutions alone, forward and backward, as oneDNN does them.

Each convolution has its own arrays, as in a step: the cache holds few of them. The gradient of the
first one's input is not computed, nor that of any bias.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import tensorflow as tf

from Network import resnet_v1
from training.layers import Conv2D
from turns import Turns


def train(precision: str, batch_size: int, steps: int, turns: Turns) -> None:
    """Rounds of as many convolutions as ``steps`` training steps have."""
    network = resnet_v1(precision=precision)
    convolutions = []
    for layer in network.layers:
        if isinstance(layer, Conv2D):
            shapes = (
                (batch_size, *layer.input.shape[1:]),
                layer.kernel.shape,
                (batch_size, *layer.output.shape[1:]),
            )
            arrays = [tf.cast(tf.random.normal(shape), precision) for shape in shapes]
            convolutions.append((*arrays, [1, *layer.strides, 1]))

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
        for _ in range(steps):
            run().numpy()
        turns()
