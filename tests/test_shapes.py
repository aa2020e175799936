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


def test_classes_are_balanced_and_shuffled(drawn):
    for y in (drawn[1], drawn[3]):
        assert np.bincount(y).tolist() == [len(y) // 10] * 10
        # A label says nothing about the next one: about a tenth are equal.
        assert 0.07 < np.mean(y[1:] == y[:-1]) < 0.13
        assert all(np.bincount(part, minlength=10).min() > 0 for part in np.split(y, 10))


def test_bytes_are_the_golden_ones(drawn):
    assert digest(drawn) == GOLDEN


def test_the_generator_decides_every_picture():
    labels = np.arange(10)
    np.testing.assert_array_equal(draw(labels, 3), draw(labels, 3))
    assert (draw(labels, 3) != draw(labels, 4)).any(axis=(1, 2, 3)).all()


def test_drawing_does_not_touch_the_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what is protected
    draw(np.arange(10), 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_no_picture_occurs_twice(drawn):
    pictures = [picture.tobytes() for x in (drawn[0], drawn[2], drawn[4]) for picture in x]
    assert len(set(pictures)) == len(pictures) == 13_000


def difference(label, other, count, seed):
    """Where pictures of the same draws change with the label: bool [count, 32, 32]."""
    one, two = (draw(np.full(count, which), seed) for which in (label, other))
    return (one != two).any(axis=3)


def test_the_label_decides_the_figure_and_nothing_else():
    changed = difference(shapes.CLASS_NAMES.index("disc"), shapes.CLASS_NAMES.index("bar"), 200, 0)
    assert changed.any(axis=(1, 2)).all()
    # A disc of radius 12 covers 452 of the 1024 pixels; ground, clutter and noise stay as they are.
    assert changed.sum(axis=(1, 2)).max() < 500


@pytest.mark.parametrize("name", shapes.CLASS_NAMES)
def test_pictures_of_a_class_vary_in_place_size_and_colour(name):
    label = shapes.CLASS_NAMES.index(name)
    mask = difference(label, (label + 1) % 10, 300, 5)  # shows where the figure is, and its size
    area = mask.sum(axis=(1, 2))
    pixels = np.arange(32)
    for axis in (1, 2):
        centre = (mask.sum(axis=3 - axis) * pixels).sum(axis=1) / area
        assert 15 < centre.mean() < 16.5 and centre.std() > 2
    assert np.percentile(area, 95) > 1.7 * np.percentile(area, 5)
    colour = draw(np.full(300, label), 5)[:, 12:20, 12:20].mean(axis=(1, 2))
    assert (colour.std(axis=0) > 30).all()


@pytest.mark.parametrize("name", shapes.CLASS_NAMES)
def test_figures_fit_their_frame_and_can_be_seen(name):
    x, y = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-2, 2, 201))
    inside = shapes.FIGURES[name](x, y) < 0
    radius = np.sqrt(x**2 + y**2)[inside].max()
    assert 0.85 < radius < 1.25
    assert inside.mean() * 16 > 0.7  # of a frame of area 16: a disc of radius 1 would have 3.14


def fit_softmax(x, y, decay, steps):
    # Minimises cross-entropy + decay/2 |weights|^2. Each step solves with an upper bound of the
    # Hessian (Boehning 1992), so the loss falls every time and no step size is to be chosen.
    weights = np.zeros((x.shape[1], 10), np.float32)
    one_hot = np.eye(10, dtype=np.float32)[y]
    inverse = np.linalg.inv(x.T @ x / 2 + decay * np.eye(x.shape[1], dtype=np.float32))
    for _ in range(steps):
        scores = np.exp(x @ weights)
        gradient = x.T @ (scores / scores.sum(axis=1, keepdims=True) - one_hot) + decay * weights
        weights -= inverse @ gradient
    return weights, np.abs(gradient).max()


def test_a_linear_softmax_on_pixels_learns_a_little_and_stays_far_from_solving_it(drawn):
    x_train, y_train, x_test, y_test, _ = drawn
    # Means of 2x2 pixels take a tenth of the time and give the same test accuracy, 25 %.
    x_train, x_test = (
        x.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4), np.float32).reshape(len(x), -1)
        for x in (x_train, x_test)
    )
    mean, std = x_train.mean(axis=0), x_train.std(axis=0)
    x_train, x_test = (x_train - mean) / std, (x_test - mean) / std
    weights, gradient = fit_softmax(x_train, y_train, decay=1e4, steps=40)
    assert gradient < 1
    assert np.mean(np.argmax(x_train @ weights, axis=1) == y_train) > 0.2
    assert 0.15 < np.mean(np.argmax(x_test @ weights, axis=1) == y_test) < 0.60
