"""``main.py`` on a data set of few images, on several devices: ``worker.py DEVICES DIE_AT ARG...``.

DEVICES logical CPUs; DIE_AT is the step whose call kills the process, 0 for none. Ends with the
digest of the weights that this process has, and writes all its weights to WEIGHTS if that is set.
"""

from __future__ import annotations

import os
import sys

import crash_child
import numpy as np

import main


def worker() -> int:
    devices, die_at, *arguments = sys.argv[1:]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    main._import_tensorflow()
    import tensorflow as tf

    one = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        one, [tf.config.LogicalDeviceConfiguration()] * int(devices)
    )
    crash_child.draw_few_images()
    if int(die_at):
        crash_child.arm("in a step", int(die_at))
    import Checkpoint
    from Model import Model

    train = Model.train

    def train_and_tell(self, *args, **options):
        progress = train(self, *args, **options)
        print("digest", Checkpoint.weights_digest(self.network, self.mean), flush=True)
        if "WEIGHTS" in os.environ:
            weights = np.concatenate([w.ravel() for w in self.network.get_weights()])
            x = np.random.default_rng(0).integers(0, 256, (1203, 32, 32, 3), np.uint8)
            np.savez(os.environ["WEIGHTS"], weights=weights, probabilities=self.predict_prob(x))
        return progress

    Model.train = train_and_tell
    return main.main(arguments)


if __name__ == "__main__":
    sys.exit(worker())
