"""A network and a data set that train in a moment."""

import time

import numpy as np

import Configure


def model_configs(**changes):
    tiny = {"depth": 8, "width": 2, "precision": "float32"}
    return Configure.configure("resnet20", {**tiny, **changes})[0]


def training_configs(**changes):
    tiny = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01}
    return Configure.configure("resnet20", {**tiny, **changes})[1]


def images(count=44, seed=0):
    """uint8 [count, 32, 32, 3] and int32 [count]: noise, brighter for a higher label."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 10, count).astype(np.int32)
    x = generator.integers(0, 100, (count, 32, 32, 3)) + 15 * y[:, None, None, None]
    return x.astype(np.uint8), y


def wait_for(happened, process):
    """Until ``happened`` says that a process has done something."""
    deadline = time.monotonic() + 200
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
