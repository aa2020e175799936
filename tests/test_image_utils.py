"""ImageUtils.py: each image as it should come out, whoever computes it and wherever."""

import os
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import DataLoader
from Configure import training_configs
from ImageUtils import (
    PCA_CIFAR10,
    STREAMS,
    augment,
    colour_jitter,
    cutout,
    draw,
    mixup,
    normalize,
    pca_jitter,
    pixel_mean,
    random_crop,
    random_flip,
    random_rotation,
    random_shift,
    shrink,
    stream_seed,
    views,
)

SEED = tf.constant([3, 14], tf.int64)
ON = {
    "flip": True,
    "crop_pad": 2,
    "shift": 0.2,
    "rotation": 30.0,
    "colour_jitter": 0.3,
    "pca_jitter": 0.1,
    "pixel_noise": 0.1,
    "cutout": 3,
    "mixup_alpha": 0.4,
}
NONE = {**training_configs, **{name: type(value)() for name, value in ON.items()}}
ALL = {**NONE, **ON}
MEAN = tf.reshape(tf.linspace(0.3, 0.6, 8 * 8 * 3), [8, 8, 3])
few = settings(max_examples=20)


def noise(count, height=8, width=8, channels=3, seed=0):
    """Images of numbers that all differ, so that each window can be told from each other."""
    return tf.constant(
        np.random.default_rng(seed).uniform(-1, 1, (count, height, width, channels)), tf.float32
    )


def one_hot(count, classes=10):
    return tf.one_hot(tf.range(count) % classes, classes)


def image(*rows):
    """``[1, H, W, 1]`` from rows of numbers."""
    return tf.constant(rows, tf.float32)[None, :, :, None]


def plane(images):
    """Rows of numbers of the first image's first channel."""
    return np.asarray(images)[0, :, :, 0]


def drawn(count, seed=SEED, shape=(8, 8, 3), **configs):
    return draw(seed, count, shape, {**NONE, **configs})


# Mean and normalization


@few
@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(2), st.just(3), st.just(1))))
def test_pixel_mean_is_the_exact_mean_rounded_once(images):
    expected = (images.astype(object).sum(axis=0) / (255 * len(images))).astype(np.float32)
    np.testing.assert_array_equal(pixel_mean(images), expected)


def test_pixel_mean_of_many_bright_images_does_not_overflow():
    assert (pixel_mean(np.full((70_000, 1, 1, 1), 255, np.uint8)) == 1).all()


def test_normalize_scales_to_one_and_subtracts_the_mean():
    images = tf.constant([[[[0], [51]], [[102], [255]]]], tf.uint8)
    mean = tf.constant([[[0.0], [0.2]], [[0.5], [0.25]]])
    found = normalize(images, mean).numpy()
    assert found.dtype == np.float32 and found.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(found[0, :, :, 0], [[0, 0], [-0.1, 0.75]], atol=1e-7)


# What is drawn


def test_only_what_is_on_is_drawn():
    assert all(rows is None for rows in drawn(4))
    assert not any(rows is None for rows in drawn(4, **ON))


@pytest.mark.parametrize("name", ON)
def test_each_augmentation_repeats_for_a_seed_and_differs_from_step_to_step(name):
    configs = {**NONE, name: ON[name]}
    images, labels = noise(32), one_hot(32)

    def run(*seed):
        seed = tf.constant(seed, tf.int64)
        return augment(images, labels, MEAN, draw(seed, 32, (8, 8, 3), configs), configs)[0]

    first = run(3, 14)
    np.testing.assert_array_equal(run(3, 14), first)
    for seed in ((3, 15), (4, 14), (14, 3), (2**31 - 1, 2**31 - 1)):
        assert (run(*seed) != first).numpy().any(axis=(1, 2, 3)).mean() > 0.2


def test_no_stream_of_one_step_is_a_stream_of_another():
    numbers = (0, 1, 2, 5, 2**31 - 1)
    seeds = {
        tuple(stream_seed(tf.constant([seed, step], tf.int64), stream).numpy().tolist())
        for seed in numbers
        for step in numbers
        for stream in STREAMS
    }
    assert len(seeds) == 5 * 5 * len(STREAMS)


def test_half_of_the_images_are_flipped_and_every_window_occurs_equally_often():
    draws = drawn(1800, flip=True, crop_pad=1)
    places = zip(*(part.numpy().tolist() for part in draws[:3]), strict=True)
    counts = Counter(places)
    assert len(counts) == 2 * 3 * 3
    # 100 of each are expected; chi-squared with 17 degrees of freedom is over 41 once in 1000.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 41


def test_the_other_numbers_have_the_range_or_the_deviation_that_is_asked_for():
    draws = drawn(2000, **{**ON, "shift": 0.1, "rotation": 90.0}, shape=(10, 20, 3))
    for name, low, high in (
        ("angles", -np.pi / 2, np.pi / 2),
        ("colours", -0.3, 0.3),
        ("weights", 0, 1),
    ):
        rows = getattr(draws, name).numpy()
        assert low <= rows.min() < 0.98 * low + 0.02 and 0.98 * high < rows.max() <= high
    for axis, most in enumerate((1, 2)):  # a tenth of 10 rows, of 20 columns
        shifts = draws.shifts.numpy()[:, axis]
        assert -most <= shifts.min() < -0.98 * most and 0.98 * most < shifts.max() <= most
        centres = draws.centres.numpy()[:, axis]
        assert set(centres) == set(range(10 * (axis + 1)))
    assert draws.components.numpy().std() == pytest.approx(0.1, rel=0.05)
    assert draws.noise.numpy().std() == pytest.approx(0.1, rel=0.01)
    assert draws.noise.shape == (2000, 10, 20, 3)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 5.0])
def test_mixing_weights_are_beta_distributed(alpha):
    count = 20_000
    weights = drawn(count, mixup_alpha=alpha).weights.numpy().astype(np.float64)
    assert ((weights >= 0) & (weights <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    squares = (weights - 0.5) ** 2  # in [0, 1/4]: their variance is at most v (1/4 - v)
    assert abs(weights.mean() - 0.5) < 4 * np.sqrt(variance / count)
    assert abs(squares.mean() - variance) < 4 * np.sqrt(variance * (0.25 - variance) / count)


def test_mixing_weights_of_alpha_one_are_uniform():
    count = 20_000
    weights = np.sort(drawn(count, mixup_alpha=1.0).weights)
    distance = np.abs(weights - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / np.sqrt(count)  # Kolmogorov and Smirnov, once in 1000


def test_mixing_weights_of_a_tiny_alpha_are_numbers():
    weights = drawn(20_000, mixup_alpha=0.01).weights.numpy()
    assert ((weights >= 0) & (weights <= 1)).all()
    assert abs(weights.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert ((weights < 0.01) | (weights > 0.99)).mean() > 0.9


# Flip and crop


def test_flip_by_hand():
    images = tf.concat([image([1, 2, 3], [4, 5, 6])] * 2, 0)
    found = random_flip(images, tf.constant([True, False]))
    np.testing.assert_array_equal(found[0, :, :, 0], [[3, 2, 1], [6, 5, 4]])
    np.testing.assert_array_equal(found[1, :, :, 0], [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 2), (5, 7, 4), (6, 4, 1)])
@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crops_are_windows_of_the_padded_image(height, width, pad, mode):
    images = noise(12, height, width)
    rows, columns = np.random.default_rng(0).integers(0, 2 * pad + 1, (2, 12), np.int32)
    found = random_crop(images, tf.constant(rows), tf.constant(columns), pad, mode)
    for one, original, row, column in zip(found, images, rows, columns, strict=True):
        sides = ((pad, pad), (pad, pad), (0, 0))
        padded = np.pad(original, sides, mode="constant" if mode == "zero" else "reflect")
        np.testing.assert_array_equal(one, padded[row : row + height, column : column + width])


# Shift and rotation


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ((1, 0), [[1, 2, 3], [1, 2, 3], [4, 5, 6]]),
        ((0, -1), [[2, 3, 3], [5, 6, 6], [8, 9, 9]]),
        ((-2, 2), [[7, 7, 7], [7, 7, 7], [7, 7, 7]]),
        ((0, 0.5), [[1, 1.5, 2.5], [4, 4.5, 5.5], [7, 7.5, 8.5]]),
    ],
)
def test_shift_by_hand(shift, expected):
    images = image([1, 2, 3], [4, 5, 6], [7, 8, 9])
    found = random_shift(images, tf.constant([shift], tf.float32))
    np.testing.assert_allclose(plane(found), expected, atol=1e-6)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
def test_a_rotation_by_right_angles_is_that_of_numpy(turns):
    images = noise(3)
    found = random_rotation(images, tf.constant([turns * np.pi / 2] * 3, tf.float32))
    np.testing.assert_allclose(found, np.rot90(images, turns, axes=(1, 2)), atol=1e-5)


def test_a_rotation_goes_between_pixels_and_repeats_the_edge():
    ramp = tf.broadcast_to(tf.range(9.0)[None, :, None, None], (1, 9, 9, 1))  # grows downwards
    found = plane(random_rotation(ramp, tf.constant([np.pi / 6], tf.float32)))
    row, column = np.mgrid[-4:5, -4:5]
    expected = 4 + np.cos(np.pi / 6) * row + np.sin(np.pi / 6) * column
    np.testing.assert_allclose(found, np.clip(expected, 0, 8), atol=1e-4)


# Colours, noise, cutout


def test_colour_jitter_by_hand():
    images = tf.constant([[[[0.2, 0.4, 0.6], [0.4, 0.0, 0.2]]]])  # mean 0.3, 0.2, 0.4

    def jitter(*colours):
        return colour_jitter(images, tf.constant([colours], tf.float32))[0, 0]

    brighter = [[0.3, 0.5, 0.7], [0.5, 0.1, 0.3]]
    np.testing.assert_allclose(jitter(0.1, 0.0, 0.0), brighter, atol=1e-6)
    contrasted = [[0.15, 0.5, 0.7], [0.45, -0.1, 0.1]]
    np.testing.assert_allclose(jitter(0.0, 0.5, 0.0), contrasted, atol=1e-6)
    grey = [[0.363] * 3, [0.1424] * 3]
    np.testing.assert_allclose(jitter(0.0, 0.0, -1.0), grey, atol=1e-6)
    np.testing.assert_allclose(jitter(0.0, 0.0, 0.0), images[0, 0], atol=1e-6)


def test_the_colours_of_a_grey_image_stay_grey_whatever_the_mean_image_is():
    configs = {**NONE, "colour_jitter": 0.5}
    grey = tf.fill([8, 8, 8, 3], 0.25)
    found, _ = augment(grey - MEAN, one_hot(8), MEAN, drawn(8, colour_jitter=0.5), configs)
    found = (found + MEAN).numpy()
    assert np.ptp(found, axis=(1, 2, 3)).max() < 1e-5
    assert np.ptp(found) > 0.1  # of brightness


def test_pca_jitter_adds_the_same_colour_to_every_pixel():
    images = noise(2)
    found = pca_jitter(images, tf.constant([[0.0, 0.0, 0.0], [0.1, -0.2, 0.0]]))
    np.testing.assert_array_equal(found[0], images[0])
    colour = 0.1 * np.array(PCA_CIFAR10)[:, 0] - 0.2 * np.array(PCA_CIFAR10)[:, 1]
    np.testing.assert_allclose(found[1] - images[1], np.broadcast_to(colour, (8, 8, 3)), atol=1e-6)


def test_the_principal_colours_are_those_of_the_training_images():
    if "CIFAR10_DIR" not in os.environ:
        pytest.skip("CIFAR10_DIR does not name a folder of the official data")
    pixels = DataLoader.load_data(os.environ["CIFAR10_DIR"]).x_train.reshape(-1, 3).T / 255
    expected, components = np.cov(pixels), np.array(PCA_CIFAR10)
    np.testing.assert_allclose(components @ components.T, expected, atol=2e-5)
    lengths = np.sqrt(np.linalg.eigvalsh(expected))[::-1]
    np.testing.assert_allclose(np.linalg.norm(components, axis=0), lengths, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "centre", "expected"),
    [
        (2, (1, 1), ["..xx", "..xx", "xxxx"]),
        (2, (0, 3), ["xx..", "xxxx", "xxxx"]),
        (3, (1, 2), ["x...", "x...", "x..."]),
        (1, (2, 0), ["xxxx", "xxxx", ".xxx"]),
    ],
)
def test_cutout_by_hand(size, centre, expected):
    found = cutout(tf.ones((1, 3, 4, 1)), tf.constant([centre]), size)
    assert ["".join(".x"[int(v)] for v in row) for row in plane(found)] == expected


def test_shrink_by_hand():
    found = shrink(image([0, 6, 12, 18], [0, 6, 12, 18], [6, 12, 18, 24], [6, 12, 18, 24]))
    # The middles of the new pixels are at 1/6, 3/2 and 17/6 of the old ones.
    np.testing.assert_allclose(plane(found), [[1, 9, 17], [4, 12, 20], [7, 15, 23]], rtol=1e-6)


# Mixup


def test_mixup_by_hand():
    images = tf.reshape(tf.constant([10.0, 20.0, 40.0]), (3, 1, 1, 1))
    found, labels = mixup(images, one_hot(3, 3), tf.constant([0.25, 1.0, 0.5]))
    # Each with the next, the last with the first.
    assert found.numpy().ravel().tolist() == [17.5, 20, 25]
    assert labels.numpy().tolist() == [[0.25, 0.75, 0], [0, 1, 0], [0.5, 0, 0.5]]


# All of them, and parts of a batch


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_views_by_hand(flip, shift):
    x = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    moved = [(0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:])]
    expected = [(0.5, x), *moved] if shift else [(1.0, x)]
    if flip:
        expected = [(w / 2, view) for w, seen in expected for view in (seen, seen[:, :, ::-1])]
    found = views(tf.constant(x), {"test_time_flip": flip, "test_time_shift": shift})
    assert [weight for weight, _ in found] == [weight for weight, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_augment_does_nothing_unless_asked():
    images, labels = noise(4), one_hot(4)
    found, same = augment(images, labels, MEAN, drawn(4), NONE)
    assert found is images and same is labels


def test_augment_changes_colours_flips_crops_cuts_out_and_mixes_in_this_order():
    images, labels, draws = noise(6), one_hot(6), drawn(6, **ON)
    found, soft = augment(images, labels, MEAN, draws, ALL)
    expected = colour_jitter(images + MEAN, draws.colours) - MEAN
    expected = random_flip(expected, draws.flipped)
    expected = random_crop(expected, draws.rows, draws.columns, 2, "zero")
    expected = random_rotation(random_shift(expected, draws.shifts), draws.angles)
    expected = pca_jitter(expected, draws.components)
    expected = cutout(expected + draws.noise, draws.centres, 3)
    expected, expected_soft = mixup(expected, labels, draws.weights)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(soft, expected_soft)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_part_with_one_image_more_comes_out_as_the_whole_batch_would(count):
    images, labels, draws = noise(8), one_hot(8), drawn(8, **ON)
    whole = augment(images, labels, MEAN, draws, ALL)
    parts = []
    for first in range(0, 8, count):
        places = (first + tf.range(count + 1)) % 8
        rows = tf.gather(images, places), tf.gather(labels, places)
        parts.append([part[:count] for part in augment(*rows, MEAN, draws.take(places), ALL)])
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_allclose(tf.concat(found, 0), expected, atol=1e-6)


def test_a_graph_draws_the_same_numbers_and_augments_alike_to_rounding():
    images, labels = noise(8), one_hot(8)
    compiled = tf.function(lambda seed: draw(seed, 8, (8, 8, 3), ALL))
    augmented = tf.function(lambda draws: augment(images, labels, MEAN, draws, ALL))
    for step in range(3):
        draws = draw(tf.constant([3, step], tf.int64), 8, (8, 8, 3), ALL)
        for found, expected in zip(compiled(tf.constant([3, step], tf.int64)), draws, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        for found, expected in zip(
            augmented(draws), augment(images, labels, MEAN, draws, ALL), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
