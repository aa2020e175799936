"""Where the time of a step and of inference goes, by kernel, as TensorFlow's profiler sees it.

``python benchmarks/kernels.py`` writes ``benchmarks/results/kernels.md``. Nothing else may run
meanwhile.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from peer_package import Model, infer, train
from throughput import HERE, PRECISIONS, describe, machine, table

STEPS = 30


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
    (HERE / "results" / "kernels.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
