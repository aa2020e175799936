"""ImageUtils.py: each image as it should come out, whoever computes it and wherever."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.lib.stride_tricks import sliding_window_view

import ImageUtils
from ImageUtils import (
    BatchPart,
    augment,
    batch_part,
    mixup,
    normalize,
    pixel_mean,
    random_crop,
    random_flip,
    stream_seed,
)

SEED = tf.constant([3, 14], tf.int64)
ALL = {"flip": True, "crop_pad": 2, "crop_mode": "zero", "mixup_alpha": 0.4}
NONE = {"flip": False, "crop_pad": 0, "crop_mode": "zero", "mixup_alpha": 0.0}
few = settings(max_examples=20, deadline=None)


def noise(count, height=8, width=8, channels=3, seed=0):
    """Images of numbers that all differ, so that each window can be told from each other."""
    return tf.constant(
        np.random.default_rng(seed).uniform(-1, 1, (count, height, width, channels)), tf.float32
    )


def one_hot(count, classes=10):
    return tf.one_hot(tf.range(count) % classes, classes)


def image(*rows):
    """``[1, H, W, 1]`` from rows of numbers."""
    return np.array(rows, np.float32)[None, :, :, None]


@pytest.fixture(params=["eager", "graph"])
def call(request):
    """Return a function that calls a function, directly or compiled."""

    def compute(function, *args, **kwargs):
        if request.param == "graph":
            result = tf.function(lambda: function(*args, **kwargs))()
        else:
            result = function(*args, **kwargs)
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), result)

    return compute


@pytest.fixture
def draw(monkeypatch):
    """Return a function that sets the numbers in [0, 1) which the named streams give."""

    def fix(**streams):
        numbers = {getattr(ImageUtils, name): values for name, values in streams.items()}
        monkeypatch.setattr(
            ImageUtils,
            "_uniform",
            lambda seed, stream, images, part: tf.constant(numbers[stream], tf.float32),
        )

    return fix


# Mean and normalization


def test_pixel_mean_by_hand():
    images = np.array([[[[0, 255]]], [[[51, 255]]], [[[255, 254]]]], np.uint8)
    mean = pixel_mean(images)
    assert mean.dtype == np.float32
    expected = np.array([[[306 / 765, 764 / 765]]], np.float32)
    np.testing.assert_array_equal(mean, expected)


@few
@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(2), st.just(3), st.just(1))))
def test_pixel_mean_is_the_exact_mean_rounded_once(images):
    expected = (images.astype(object).sum(axis=0) / (255 * len(images))).astype(np.float32)
    np.testing.assert_array_equal(pixel_mean(images), expected)


def test_pixel_mean_of_many_bright_images_does_not_overflow():
    assert (pixel_mean(np.full((70_000, 1, 1, 1), 255, np.uint8)) == 1).all()


def test_normalize_scales_to_one_and_subtracts_the_mean(call):
    images = tf.constant([[[[0], [51]], [[102], [255]]]], tf.uint8)
    mean = tf.constant([[[0.0], [0.2]], [[0.5], [0.25]]])
    found = call(normalize, images, mean)
    assert found.dtype == np.float32 and found.shape == (1, 2, 2, 1)
    np.testing.assert_allclose(found[0, :, :, 0], [[0, 0], [-0.1, 0.75]], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int8"])
def test_normalize_refuses_what_is_not_uint8(dtype):
    message = rf"normalize: expected uint8 images in 0..255, found {dtype}; .*np.round\(x \* 255\)"
    with pytest.raises(ValueError, match=message):
        normalize(tf.zeros((1, 2, 2, 3), dtype), tf.zeros((2, 2, 3)))


# Flip


def test_flip_by_hand(call, draw):
    draw(FLIP=[0.49, 0.5])
    images = np.concatenate([image([1, 2, 3], [4, 5, 6])] * 2)
    found = call(random_flip, images, SEED)
    np.testing.assert_array_equal(found[0, :, :, 0], [[3, 2, 1], [6, 5, 4]])
    np.testing.assert_array_equal(found[1, :, :, 0], [[1, 2, 3], [4, 5, 6]])


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others(call):
    images = noise(1000, 2, 3).numpy()
    found = call(random_flip, images, SEED)
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (found == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flip_and_crop_keep_the_type(dtype):
    images = np.ones((2, 4, 4, 3), dtype)
    assert random_flip(images, SEED).dtype == dtype
    assert random_crop(images, SEED, 1).dtype == dtype


# Crop


@pytest.mark.parametrize(
    ("mode", "row", "column", "expected"),
    [
        # 0 is the window at the top left, just under 1 the one at the bottom right.
        ("zero", 0.0, 0.0, [[0, 0, 0], [0, 1, 2], [0, 4, 5]]),
        ("zero", 0.999, 0.999, [[5, 6, 0], [8, 9, 0], [0, 0, 0]]),
        ("zero", 0.5, 0.5, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ("zero", 0.0, 0.5, [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        ("reflect", 0.0, 0.0, [[5, 4, 5], [2, 1, 2], [5, 4, 5]]),
        ("reflect", 0.5, 0.999, [[2, 3, 2], [5, 6, 5], [8, 9, 8]]),
    ],
)
def test_crop_by_hand(call, draw, mode, row, column, expected):
    draw(CROP_ROW=[row], CROP_COLUMN=[column])
    found = call(random_crop, image([1, 2, 3], [4, 5, 6], [7, 8, 9]), SEED, 1, mode)
    np.testing.assert_array_equal(found[0, :, :, 0], expected)


def places(images, cropped, pad, mode):
    """For each image the rows and columns at which it may have been cut from its padded self."""
    sides = ((pad, pad), (pad, pad), (0, 0))
    found = []
    for original, window in zip(np.asarray(images), np.asarray(cropped), strict=True):
        padded = np.pad(original, sides, mode="constant" if mode == "zero" else "reflect")
        windows = sliding_window_view(padded, window.shape)[:, :, 0]
        matches = np.argwhere((windows == window).all(axis=(2, 3, 4)))
        found.append({(int(row), int(column)) for row, column in matches})
    return found


@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 2), (5, 7, 4), (6, 4, 1), (4, 4, 3)])
def test_crops_are_windows_of_the_padded_image_the_same_in_both_modes(call, height, width, pad):
    images = noise(12, height, width)
    zero, reflect = (
        places(images, call(random_crop, images, SEED, pad, mode), pad, mode)
        for mode in ("zero", "reflect")
    )
    assert all(len(found) == 1 for found in zero)
    # Far out, mirroring shows some windows twice.
    assert all(one <= other for one, other in zip(zero, reflect, strict=True))


def test_every_place_occurs_equally_often_and_each_image_has_its_own():
    images = tf.repeat(noise(1, 6, 6, 1), 900, axis=0)
    found = places(images, random_crop(images, SEED, 1), 1, "zero")
    counts = Counter(where for (where,) in found)
    assert set(counts) == {(row, column) for row in range(3) for column in range(3)}
    # 100 of each are expected; chi-squared with 8 degrees of freedom is over 26 once in 1000.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 26


def test_no_padding_leaves_the_images(call):
    images = noise(3)
    np.testing.assert_array_equal(call(random_crop, images, SEED, 0), images)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 2), (5, 7, 4)])
def test_a_crop_that_flips_is_a_flip_and_a_crop(call, height, width, pad, mode):
    images = noise(20, height, width)
    found = call(random_crop, images, SEED, pad, mode, None, True)
    expected = random_crop(random_flip(images, SEED), SEED, pad, mode)
    np.testing.assert_array_equal(found, expected)
    assert (found != random_crop(images, SEED, pad, mode).numpy()).any()


@pytest.mark.parametrize(("pad", "mode"), [(-1, "zero"), (4, "zero"), (2, "nearest")])
def test_crop_refuses_other_pads_and_modes(pad, mode):
    message = rf"expected 0 <= pad < 4 and mode zero or reflect, found {pad} and '{mode}'"
    with pytest.raises(ValueError, match=message):
        random_crop(noise(1, 4, 6), SEED, pad, mode)


# Mixup


def test_mixup_by_hand(call, monkeypatch):
    weights = tf.constant([0.25, 1.0, 0.5])
    monkeypatch.setattr(ImageUtils, "_beta", lambda seed, alpha, count: weights[:count])
    images = np.array([10, 20, 40], np.float32).reshape(3, 1, 1, 1)
    found, labels = call(mixup, images, one_hot(3, 3), SEED, 0.2)
    # Each with the next, the last with the first.
    assert found.ravel().tolist() == [17.5, 20, 25]
    assert labels.tolist() == [[0.25, 0.75, 0], [0, 1, 0], [0.5, 0, 0.5]]


def mixing_weights(alpha, count, seed=SEED):
    """The weights of the images themselves, read off the labels of two alternating classes."""
    _, labels = mixup(tf.zeros((count, 1, 1, 1)), one_hot(count, 2), seed, alpha)
    return labels.numpy()[np.arange(count), np.arange(count) % 2]


def test_mixup_gives_convex_combinations_and_labels_that_add_up_to_one(call):
    count = 16
    images, labels = noise(count), one_hot(count, count)
    mixed, soft = call(mixup, images, labels, SEED, 0.7)
    assert mixed.shape == images.shape and soft.shape == labels.shape
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    assert ((soft >= 0) & (soft <= 1)).all() and (soft < 0.99).any()
    # Each image is the combination that its label says.
    expected = np.tensordot(soft, images, 1)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert len(set(np.diag(soft))) == count  # each its own weight


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 5.0])
def test_mixing_weights_are_beta_distributed(alpha):
    count = 20_000
    weights = mixing_weights(alpha, count).astype(np.float64)
    assert ((weights >= 0) & (weights <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    squares = (weights - 0.5) ** 2  # in [0, 1/4]: their variance is at most v (1/4 - v)
    assert abs(weights.mean() - 0.5) < 4 * np.sqrt(variance / count)
    assert abs(squares.mean() - variance) < 4 * np.sqrt(variance * (0.25 - variance) / count)


def test_mixing_weights_of_alpha_one_are_uniform():
    count = 20_000
    weights = np.sort(mixing_weights(1.0, count))
    distance = np.abs(weights - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / np.sqrt(count)  # Kolmogorov and Smirnov, once in 1000


def test_mixing_weights_of_a_tiny_alpha_are_numbers():
    weights = mixing_weights(0.01, 20_000)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert abs(weights.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert ((weights < 0.01) | (weights > 0.99)).mean() > 0.9


# Seeds


@pytest.mark.parametrize("name", ["flip", "crop_pad", "mixup_alpha"])
def test_each_augmentation_repeats_for_a_seed_and_differs_from_step_to_step(name):
    configs = {**NONE, name: ALL[name]}
    part = batch_part(0, 32, 32, configs)
    images = tf.gather(noise(32), part.positions)
    labels = tf.gather(one_hot(32), part.positions)

    def run(seed, step):
        return augment(images, labels, tf.constant([seed, step], tf.int64), configs, part)[0]

    first = run(3, 14)
    np.testing.assert_array_equal(run(3, 14), first)
    for seed, step in ((3, 15), (4, 14), (14, 3)):
        assert (run(seed, step) != first).numpy().any(axis=(1, 2, 3)).mean() > 0.2


def test_seeds_up_to_two_to_the_31_are_taken():
    images, largest = noise(64), 2**31 - 1
    flips = [
        random_flip(images, tf.constant(seed, tf.int64))
        for seed in ([largest, 0], [largest, largest], [largest - 1, 0])
    ]
    assert (flips[0] != flips[1]).numpy().any() and (flips[0] != flips[2]).numpy().any()


def test_no_stream_of_one_step_is_a_stream_of_another():
    numbers = (0, 1, 2, 5, 2**31 - 1)
    seeds = {
        tuple(stream_seed(tf.constant([seed, step], tf.int64), stream).numpy().tolist())
        for seed in numbers
        for step in numbers
        for stream in range(6)
    }
    assert len(seeds) == 5 * 5 * 6


def test_flip_row_and_column_are_drawn_independently():
    images = tf.repeat(noise(1, 5, 5, 1), 600, axis=0)
    configs = {**ALL, "crop_pad": 1, "mixup_alpha": 0.0}
    found, _ = augment(images, one_hot(600), SEED, configs, batch_part(0, 600, 600, configs))
    straight = places(images, found, 1, "zero")
    mirrored = places(images[:, :, ::-1], found, 1, "zero")
    seen = {("straight", *where) for place in straight for where in place}
    seen |= {("mirrored", *where) for place in mirrored for where in place}
    assert len(seen) == 2 * 3 * 3


# All of them, and parts of a batch


def test_augment_does_nothing_unless_asked():
    images, labels = noise(4), one_hot(4)
    found, same = augment(images, labels, SEED, NONE, batch_part(0, 4, 4, NONE))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(same, labels)


def test_augment_flips_then_crops_then_mixes():
    images, labels = noise(6), one_hot(6)
    part = batch_part(0, 6, 6, ALL)
    rows = (tf.gather(tensor, part.positions) for tensor in (images, labels))
    found, soft = augment(*rows, SEED, ALL, part)
    expected, expected_soft = mixup(
        random_crop(random_flip(images, SEED), SEED, 2), labels, SEED, 0.4
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(soft, expected_soft)


def test_augment_pads_the_crop_as_configured():
    configs = {**NONE, "crop_pad": 3, "crop_mode": "reflect"}
    images = noise(6)
    found, _ = augment(images, one_hot(6), SEED, configs, batch_part(0, 6, 6, configs))
    np.testing.assert_array_equal(found, random_crop(images, SEED, 3, "reflect"))


def test_batch_part_brings_the_partner_of_its_last_image_if_mixup_needs_it():
    assert batch_part(0, 2, 6, NONE).positions.numpy().tolist() == [0, 1]
    assert batch_part(2, 2, 6, ALL).positions.numpy().tolist() == [2, 3, 4]
    last = batch_part(tf.constant(4), 2, 6, ALL)
    assert last.positions.numpy().tolist() == [4, 5, 0]
    assert last.batch_size == 6


def augment_part(images, labels, seed, configs, first, count):
    part = batch_part(first, count, len(images), configs)
    rows = (tf.gather(tensor, part.positions) for tensor in (images, labels))
    return augment(*rows, seed, configs, part)


def augment_whole(images, labels, seed, configs):
    images = random_crop(random_flip(images, seed), seed, configs["crop_pad"], configs["crop_mode"])
    if configs["mixup_alpha"]:
        images, labels = mixup(images, labels, seed, configs["mixup_alpha"])
    return images, labels


@pytest.mark.parametrize("configs", [ALL, {**ALL, "mixup_alpha": 0.0, "crop_mode": "reflect"}])
@pytest.mark.parametrize("sizes", [(8,), (4, 4), (2, 2, 2, 2), (1, 5, 2)])
def test_parts_of_a_batch_come_out_as_the_whole_batch_would(call, sizes, configs):
    images, labels = noise(8), one_hot(8)
    whole = call(augment_whole, images, labels, SEED, configs)
    parts = [
        call(augment_part, images, labels, SEED, configs, sum(sizes[:index]), size)
        for index, size in enumerate(sizes)
    ]
    assert [len(part[0]) for part in parts] == list(sizes)
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_a_graph_augments_as_eager_code_does_to_rounding():
    images, labels = noise(8), one_hot(8)
    compiled = tf.function(lambda seed: augment_whole(images, labels, seed, ALL))
    for step in range(5):
        seed = tf.constant([3, step], tf.int64)
        for found, expected in zip(
            compiled(seed), augment_whole(images, labels, seed, ALL), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@few
@given(st.permutations(range(6)), st.integers(0, 2**31 - 1))
def test_an_image_comes_out_by_its_place_whatever_stands_around_it(positions, seed):
    seed, images = tf.constant([seed, 0], tf.int64), noise(6, 4, 4)
    whole = random_crop(random_flip(images, seed), seed, 1)
    part = BatchPart(tf.constant(positions), 6)
    found = random_crop(random_flip(tf.gather(images, positions), seed, part), seed, 1, part=part)
    np.testing.assert_array_equal(found, tf.gather(whole, positions))
