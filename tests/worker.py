"""``main.py`` on a data set of few images, on several devices: ``worker.py DEVICES END ARG...``.

DEVICES logical CPUs, two steps in a call. END is empty, or a signal that this process gets in a
call of steps, as in "SIGKILL 7". Ends with the digest of the weights that this process has, and
writes all its weights to WEIGHTS if that is set.
"""

from __future__ import annotations

import os
import signal
import sys

import crash_child
import numpy as np

import main


def worker() -> int:
    devices, end, *arguments = sys.argv[1:]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    main._import_tensorflow()
    import tensorflow as tf

    one = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        one, [tf.config.LogicalDeviceConfiguration()] * int(devices)
    )
    crash_child.draw_few_images()
    from training import loop
    from training.step import TrainStep

    loop.IMAGES_PER_CALL = 32
    if end:
        name, number = end.split()
        crash_child.kill_at(TrainStep, "run", int(number), by=signal.Signals[name])
    from machine import cluster
    from Model import Model
    from runs.weights import weights_digest

    cluster.CONNECT_SECONDS = 15

    train = Model.train

    def train_and_tell(self, *args, **options):
        progress = train(self, *args, **options)
        print("digest", weights_digest(self.network, self.mean), flush=True)
        if "WEIGHTS" in os.environ:
            weights = np.concatenate([w.ravel() for w in self.network.get_weights()])
            x = np.random.default_rng(0).integers(0, 256, (3203, 32, 32, 3), np.uint8)
            np.savez(os.environ["WEIGHTS"], weights=weights, probabilities=self.predict_prob(x))
        return progress

    Model.train = train_and_tell
    return main.main(arguments)


if __name__ == "__main__":
    sys.exit(worker())
