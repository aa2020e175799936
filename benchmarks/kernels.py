"""Where the time of a step and of inference goes, by kernel, as TensorFlow's profiler sees it.

Also how much the convolutions compute, beside what the processor can do at most. ``python
benchmarks/kernels.py`` writes ``benchmarks/results/kernels.md``. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import math
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from Network import resnet_v1
from peer_package import Model, infer, train
from throughput import HERE, PRECISIONS, describe, machine, table
from training.layers import Conv2D

STEPS = 30
PRODUCT = 4096  # rows and columns


class _Enough(Exception):  # noqa: N818, as it is no error
    """The round that was measured is over."""


def measure(steps: int, peer: Callable, *arguments) -> collections.Counter:
    """Milliseconds a step of each kind of kernel; those that run side by side add up.

    Args:
        steps: in a round of the peer.
        peer: of peer_package.py; its second round is measured.
        *arguments: of the peer, but for the last.
    """
    rounds = itertools.count()
    with tempfile.TemporaryDirectory() as folder:

        def after_round():
            number = next(rounds)
            if number == 0:
                tf.profiler.experimental.start(folder)
            else:
                tf.profiler.experimental.stop()
                raise _Enough

        try:
            peer(*arguments, after_round)
        except _Enough:
            (path,) = Path(folder).rglob("*.xplane.pb")
            space = xplane_pb2.XSpace.FromString(path.read_bytes())
    milliseconds = collections.Counter()
    for plane in space.planes:
        for event in itertools.chain.from_iterable(line.events for line in plane.lines):
            # A kernel's event is named "place in the graph:kind"; there are others around it.
            if kind := re.fullmatch(r"[^:]+:(\w+)", plane.event_metadata[event.metadata_id].name):
                milliseconds[kind[1]] += event.duration_ps / 1e9 / steps
    return milliseconds


def rows(milliseconds: collections.Counter) -> list[str]:
    """Of a table: every kind with at least 1 % of the time, the largest first, and the others."""
    total = milliseconds.total()
    shown = {name: value for name, value in milliseconds.most_common() if value >= total / 100}
    shown["all others"] = total - sum(shown.values())
    return [f"{name} | {value:.1f} | {100 * value / total:.0f} %" for name, value in shown.items()]


def product_rate(precision: str, size: int, rounds: int = 9) -> float:
    """Median GFLOP/s of a product of two square matrices: about the most that oneDNN can do."""
    left, right = (tf.cast(tf.random.normal([size, size]), precision) for _ in range(2))
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        tf.matmul(left, right)[0, 0].numpy()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def convolution_gflop() -> tuple[float, float]:
    """What the convolutions of ResNet-20 compute for an image: in inference, and in training."""
    forward = [
        2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3]) / 1e9
        for layer in resnet_v1().layers
        if isinstance(layer, Conv2D)
    ]
    # Nobody needs the gradient of the images.
    return sum(forward), 3 * sum(forward) - forward[0]


def main() -> None:
    """Measure both precisions, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=128)
    batch_size = parser.parse_args().batch_size
    lines = [
        "# Kernels",
        "",
        f"`python benchmarks/kernels.py` on {describe(machine())}. Kernels that run side by side "
        "are counted one by one.",
        "",
    ]
    for precision in PRECISIONS:
        found = measure(STEPS, train, precision, batch_size, STEPS)
        lines += [f"## The whole `train` loop, batch {batch_size}, {precision}", ""]
        lines += table("kernel | ms a step | share", rows(found))
    images = Model.INFERENCE_BATCH
    for precision in PRECISIONS:
        found = measure(10_000 // images, infer, precision, images)
        lines += [f"## `predict_prob`, {precision}", ""]
        lines += table(f"kernel | ms of {images} images | share", rows(found))
    inference, training = convolution_gflop()
    rates = [f"{precision} | {product_rate(precision, PRODUCT):.0f}" for precision in PRECISIONS]
    lines += [
        "## What the processor can do",
        "",
        f"The convolutions ask for {inference:.4f} GFLOP an image in inference, and for "
        f"{training:.4f} in training. A product of two {PRODUCT} x {PRODUCT} matrices reaches:",
        "",
        *table("precision | GFLOP/s", rates),
    ]
    (HERE / "results" / "kernels.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
