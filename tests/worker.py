"""``main.py`` on few images and without pictures, in a process with several logical devices."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import crash_child
import numpy as np
import pytest
import tiny

import main
from runs import plots
from sources import shapes


def run(
    arguments: list[str],
    output: Path,
    environment: dict[str, str],
    devices: int = 1,
    end: tuple[str, int] | None = None,
    start_minutes: float = 1,
) -> None:
    """Run ``main.py`` two steps a call, and exit with its code.

    Args:
        arguments: of the command line.
        output: folder for ``weights.npz`` of a training that ends: all weights that this process
            has, their digest and some probabilities.
        environment: TF_CONFIG, of a worker.
        devices: logical CPUs.
        end: a signal that this process gets, and in which call of steps.
        start_minutes: for all workers to have come.
    """
    os.environ |= environment
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * devices,
    )
    x, y = tiny.images(340)
    shapes.load = lambda: (x[:320], y[:320], x[320:], y[320:], x[320:])
    for name in ("classes_png", "batch_png", "curves_png"):
        setattr(plots, name, lambda *_: b"")
    from machine import cluster
    from Model import Model
    from runs.weights import weights_digest
    from training import loop
    from training.step import TrainStep

    loop.IMAGES_PER_CALL = 32
    if end is not None:
        crash_child.kill_at(TrainStep, "run", end[1], by=signal.Signals[end[0]])
    cluster.START_MINUTES = start_minutes
    train = Model.train

    def train_and_tell(self, *arguments, **options):
        progress = train(self, *arguments, **options)
        weights = [weight.ravel() for weight in self.network.get_weights()]
        x = np.random.default_rng(0).integers(0, 256, (1203, 32, 32, 3), np.uint8)
        np.savez(
            output / "weights.npz",
            weights=np.concatenate(weights),
            digest=weights_digest(self.network, self.mean),
            probabilities=self.predict_prob(x),
        )
        return progress

    Model.train = train_and_tell
    sys.exit(main.main(arguments))


def talk(output: Path, environment: dict[str, str]) -> None:
    """Use each collective, from a thread, and write what came of it to ``output``/talk.json.

    In the end the chief dies, and the other asks it once more.

    Args:
        output: a folder.
        environment: TF_CONFIG.
    """
    os.environ |= environment
    from machine import cluster
    from machine.errors import StorageError, WorkerError

    found = {}

    def fail():
        raise StorageError("no place")

    def attempt(name, *arguments):
        try:
            found[name] = getattr(cluster, name)(strategy, *arguments)
        except Exception as error:
            found[f"{name} failed"] = f"{type(error).__name__}: {error}"

    def use():
        nonlocal strategy
        with pytest.raises(WorkerError), cluster.joining() as strategy:
            chief = cluster.is_chief(strategy)
            data = bytes(2**24) + b"." if chief else b""  # 2^24 + 1 is no float32
            found["shared"] = cluster.broadcast(strategy, data) == bytes(2**24) + b"."
            found["nothing"] = cluster.broadcast(strategy, b"") == b""
            found["any"] = [cluster.any_process(strategy, flag) for flag in (False, not chief)]
            attempt("in_chief", lambda: [1])
            attempt("in_chief", fail)
            found["described"] = [cluster.describe(strategy), len(cluster.devices_of(strategy))]
            (output / "talk.json").write_text(json.dumps(found))
            if chief:
                os.kill(os.getpid(), signal.SIGKILL)
            cluster.any_process(strategy, True)

    strategy = None
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
