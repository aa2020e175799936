"""Small things that several tests need: a network, images and pictures, a disk that fills up."""

import contextlib
import io
import resource

import numpy as np
from PIL import Image

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


def encoded(picture, kind="PNG", **options):
    """The bytes of a file of a picture of Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(folder, x):
    """A PNG of each image of ``x``, 0.png, 1.png, ..., in a folder that is made."""
    folder.mkdir(parents=True)
    for number, image in enumerate(x):
        Image.fromarray(image).save(folder / f"{number}.png")


@contextlib.contextmanager
def file_limit(size):
    """No file grows beyond so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
