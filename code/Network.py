"""ResNet v1 (He et al. 2015, arXiv:1512.03385, section 4.2) as the Keras example builds it."""

from __future__ import annotations

import keras
import numpy as np

from Configure import check_depth
from training.layers import BatchNormalization, Conv2D, Dropout

STACKS = 3


def resnet_v1(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    depth: int = 20,
    num_classes: int = 10,
    width: int = 16,
    dropout: tuple[float, float] = (0.0, 0.0),
    precision: str = "float32",
    seed: int = 0,
    folded: bool = False,
) -> keras.Model:
    """Build ResNet v1 of depth 6n + 2: a stem, three stacks of n blocks, average pool, dense.

    Parameters, their order and their initial distribution are those of the Keras example
    (keras-team/keras, examples/cifar10_resnet.py at v2.3.0): 274,442 for depth 20. The block is
    that of figure 4(a) of arXiv:1603.05027. L2 is not part of the network: see
    ``training.layers.l2_kernels``.

    Args:
        input_shape: height, width, channels.
        depth: 6n + 2 with n >= 1, such as 8, 20, 32, 44, 56, 110.
        num_classes: logits per image, >= 2.
        width: channels of the first stack, >= 1; the next two have two and four times as many.
        dropout: shares dropped after stack 2 and after stack 3, each in [0, 1).
        precision: "float32" or "bfloat16" (of the arithmetic; weights and logits are float32).
        seed: of the initial weights, >= 0.
        folded: leave out batch norm and dropout, for the weights of ``folded_weights``.

    Returns:
        ``keras.Model`` from float32 ``[B, H, W, C]``, of any height and width, to float32 logits
        ``[B, num_classes]``.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """
    check_depth(depth)
    build = _Builder("mixed_bfloat16" if precision == "bfloat16" else "float32", seed, folded)
    images = keras.Input(input_shape, dtype="float32")
    x = build.relu(build.normalized_convolution(images, width, 1, "stem", ""))
    for stack in range(STACKS):
        for block in range((depth - 2) // 6):
            stride = 2 if stack > 0 and block == 0 else 1
            x = build.block(x, width * 2**stack, stride, f"stack{stack + 1}_block{block + 1}")
        if stack > 0 and not folded:
            # The step's seed is added to the layer's, so that the two masks differ.
            x = Dropout(dropout[stack - 1], seed=stack, dtype=build.policy)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=build.policy)(x)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer=build.he_normal(), dtype="float32", name="logits"
    )(x)
    network = keras.Model(images, logits, name=f"resnet{depth}_v1")
    # Nothing in it depends on the size: it trains on smaller images, too.
    network.input_spec = [keras.layers.InputSpec(shape=(None, None, None, input_shape[2]))]
    return network


def folded_weights(network: keras.Model, folded: keras.Model) -> list[np.ndarray]:
    """The weights that make ``folded`` compute what ``network`` computes in inference.

    Batch norm with fixed statistics is y = s (x - mean) + beta with s = gamma / sqrt(variance +
    epsilon), linear like the convolution before it: the kernel takes s, the bias the rest.

    Args:
        network: of ``resnet_v1``.
        folded: of ``resnet_v1`` with the same integers and ``folded=True``.

    Returns:
        float32 arrays for ``folded.set_weights``.
    """
    weights = {}
    for variable in folded.weights:
        name, kind = variable.path.split("/")[-2:]
        layer = network.get_layer(name)
        kernel, bias = (v.numpy().astype(np.float64) for v in (layer.kernel, layer.bias))
        if isinstance(layer, Conv2D) and not layer.bias_gradient:
            norm = network.get_layer(name.replace("conv", "norm"))
            gamma, beta, mean, variance = (v.numpy().astype(np.float64) for v in norm.weights)
            scale = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * scale, (bias - mean) * scale + beta
        weights[variable.path] = kernel if kind == "kernel" else bias
    return [weights[variable.path].astype(np.float32) for variable in folded.weights]


class _Builder:
    """Layers with the numeric type, the initial weights and the names of one network."""

    def __init__(self, policy, seed, folded):
        self.policy = policy
        self._seeds = np.random.default_rng(seed)
        self._folded = folded

    def he_normal(self):
        return keras.initializers.HeNormal(seed=int(self._seeds.integers(2**31)))

    def block(self, x, filters, stride, name):
        """conv-BN-ReLU, conv-BN, add, ReLU. The shortcut is made last, as in the example."""
        y = self.relu(self.normalized_convolution(x, filters, stride, name, "1"))
        y = self.normalized_convolution(y, filters, 1, name, "2")
        if stride != 1:
            x = self._convolution(x, filters, 1, stride, f"{name}_shortcut")
        return self.relu(keras.layers.Add(dtype=self.policy)([x, y]))

    def normalized_convolution(self, x, filters, stride, name, number):
        x = self._convolution(x, filters, 3, stride, f"{name}_conv{number}", self._folded)
        if self._folded:
            return x
        # With Keras's defaults, which are the example's: momentum 0.99 and epsilon 1e-3.
        return BatchNormalization(dtype=self.policy, name=f"{name}_norm{number}")(x)

    def relu(self, x):
        return keras.layers.ReLU(dtype=self.policy)(x)

    def _convolution(self, x, filters, size, stride, name, bias_gradient=True):
        return Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            kernel_initializer=self.he_normal(),
            bias_gradient=bias_gradient,
            dtype=self.policy,
            name=name,
        )(x)
