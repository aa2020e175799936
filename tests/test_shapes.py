"""The embedded data set: CIFAR-10's types, reproducible bytes, and a task that is not linear."""

import hashlib

import numpy as np
import pytest

from sources import shapes

# Of the five arrays, in the order of load(). Another digest is another data set.
GOLDEN = "460cdfe602e084375906c687d1a30d50bcf4a4d2bb6be3c4e4c95a399beac2ea"


@pytest.fixture(scope="module")
def drawn():
    return shapes.load()


def digest(arrays):
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def draw(labels, seed):
    return shapes.draw(labels, np.random.Generator(np.random.PCG64(seed)))


def test_types_and_shapes_are_those_of_cifar10(drawn):
    x_train, y_train, x_test, y_test, x_private = drawn
    for x, count in ((x_train, 10_000), (x_test, 2_000), (x_private, 1_000)):
        assert x.dtype == np.uint8 and x.shape == (count, 32, 32, 3) and x.flags.c_contiguous
    for y, count in ((y_train, 10_000), (y_test, 2_000)):
        assert y.dtype == np.int32 and y.shape == (count,)


def test_class_names_are_ten_and_none_of_cifar10():
    animals = {"bird", "cat", "deer", "dog", "frog", "horse"}
    vehicles = {"airplane", "automobile", "ship", "truck"}
    assert len(set(shapes.CLASS_NAMES)) == 10
    assert not set(shapes.CLASS_NAMES) & (animals | vehicles)


def test_bytes_are_the_golden_ones(drawn):
    assert digest(drawn) == GOLDEN


def test_the_generator_decides_every_picture():
    labels = np.arange(10)
    np.testing.assert_array_equal(draw(labels, 3), draw(labels, 3))
    assert (draw(labels, 3) != draw(labels, 4)).any(axis=(1, 2, 3)).all()


def difference(label, other, count, seed):
    """Where pictures of the same draws change with the label: bool [count, 32, 32]."""
    one, two = (draw(np.full(count, which), seed) for which in (label, other))
    return (one != two).any(axis=3)


def test_the_label_decides_the_figure_and_nothing_else():
    changed = difference(shapes.CLASS_NAMES.index("disc"), shapes.CLASS_NAMES.index("bar"), 200, 0)
    assert changed.any(axis=(1, 2)).all()
    # A disc of radius 12 covers 452 of the 1024 pixels; ground, clutter and noise stay as they are.
    assert changed.sum(axis=(1, 2)).max() < 500
