"""runs/weights.py: weights come back to the bit, or are refused in one line."""

import hashlib
import os

import h5py
import numpy as np
import pytest
from saved import SHIPPED
from tiny import file_limit

import halve
from machine.errors import RunError, StorageError
from Network import resnet_v1
from runs.record import read_record
from runs.weights import (
    MEAN_FILE,
    WEIGHTS_FILE,
    load_weights,
    save_weights,
    weights_digest,
)

KERNEL = "layers/conv2d/vars/0"


@pytest.fixture(scope="module")
def network():
    return resnet_v1(depth=8, width=2, seed=5)


@pytest.fixture(scope="module")
def other():
    return resnet_v1(depth=8, width=2, seed=6)


@pytest.fixture
def saved(tmp_path, network):
    mean = np.random.default_rng(0).random((32, 32, 3), np.float32)
    return tmp_path, mean, save_weights(tmp_path, network, mean)


def resealed(folder, record):
    """The record with the checksum that each file has now."""
    digests = [hashlib.sha256((folder / n).read_bytes()) for n in (WEIGHTS_FILE, MEAN_FILE)]
    keys = ("weights_file_sha256", "mean_file_sha256")
    return {**record, **{k: d.hexdigest() for k, d in zip(keys, digests, strict=True)}}


def test_weights_come_back_to_the_bit(saved, network, other):
    folder, mean, record = saved
    np.testing.assert_array_equal(load_weights(folder, other, record), mean)
    for one, two in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert weights_digest(other, mean) == record["weights_sha256"]
    assert sorted(os.listdir(folder)) == [WEIGHTS_FILE, MEAN_FILE]


def test_weights_kept_as_float16_come_back_as_such(tmp_path):
    network, mean = resnet_v1(depth=8, width=8, seed=5), np.zeros((32, 32, 3), np.float32)
    rounded = [array.astype(np.float16).astype(np.float32) for array in network.get_weights()]
    network.set_weights(rounded)
    record, path = save_weights(tmp_path, network, mean), tmp_path / WEIGHTS_FILE
    whole = path.read_bytes()
    path.write_bytes(halve.as_float16(whole))
    assert len(whole) - path.stat().st_size > 1.9 * network.count_params()
    loaded = resnet_v1(depth=8, width=8, seed=6)
    load_weights(tmp_path, loaded, resealed(tmp_path, record))
    for found, array in zip(loaded.get_weights(), rounded, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array)


def test_keras_and_numpy_read_the_files_too(saved, network):
    folder, mean, _ = saved
    fresh = resnet_v1(depth=8, width=2, seed=7)
    fresh.load_weights(folder / WEIGHTS_FILE)
    np.testing.assert_array_equal(fresh.get_weights()[0], network.get_weights()[0])
    np.testing.assert_array_equal(np.load(folder / MEAN_FILE), mean)


@pytest.mark.parametrize(("depth", "width"), [(14, 2), (8, 4)])
def test_another_architecture_is_refused(saved, depth, width):
    with pytest.raises(RunError, match=rf"weights of resnet{depth}_v1 \("):
        load_weights(saved[0], resnet_v1(depth=depth, width=width), saved[2])


@pytest.mark.parametrize("name", [WEIGHTS_FILE, MEAN_FILE])
def test_any_changed_or_missing_byte_is_found_before_the_file_is_parsed(saved, other, name):
    folder, _, record = saved
    data = (folder / name).read_bytes()
    for place in range(0, len(data), 997):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for content in (data[:place], flipped):
            (folder / name).write_bytes(content)
            with pytest.raises(RunError, match=r"not the one that run.json"):
                load_weights(folder, other, record)


def test_values_that_are_not_those_of_the_record_are_refused(saved, other):
    folder, _, record = saved
    with h5py.File(folder / WEIGHTS_FILE, "a") as file:
        file[KERNEL][...] = 0
    with pytest.raises(RunError, match=r"that run\.json describes"):
        load_weights(folder, other, resealed(folder, record))


def link(file):
    file[KERNEL] = h5py.ExternalLink("/etc/passwd", "/")


def external(file):
    place = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(KERNEL, (3, 3, 3, 2), "float32", external=place)


def bomb(file):
    options = {"chunks": (1000, 1000), "compression": "gzip"}
    file.create_dataset(KERNEL, (10**6, 10**5), "float32", **options)


@pytest.mark.parametrize("change", [link, external, bomb, lambda file: None])
def test_a_hostile_file_is_refused(saved, other, change):
    folder, _, record = saved
    with h5py.File(folder / WEIGHTS_FILE, "a") as file:
        del file[KERNEL]
        change(file)
    with pytest.raises(RunError, match=r"expected the weights of resnet8_v1") as caught:
        load_weights(folder, other, resealed(folder, record))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_hdf5_is_refused(saved, other):
    (saved[0] / WEIGHTS_FILE).write_bytes(b"weights" * 1000)
    with pytest.raises(RunError, match="expected the weights"):
        load_weights(saved[0], other, resealed(saved[0], saved[2]))


def test_a_mean_image_is_not_unpickled(saved, other, hostile):
    np.save(saved[0] / MEAN_FILE, np.array([hostile], object))
    with pytest.raises(RunError, match="expected the weights"):
        load_weights(saved[0], other, resealed(saved[0], saved[2]))


def test_a_mean_image_of_another_shape_is_refused(saved, other):
    folder, mean, record = saved
    np.save(folder / MEAN_FILE, mean.reshape(-1))  # the same values
    with pytest.raises(RunError, match=r"expected the weights .*pixel_mean.npy is float32"):
        load_weights(folder, other, resealed(folder, record))


def test_missing_files_are_an_error(saved, other):
    (saved[0] / MEAN_FILE).unlink()
    with pytest.raises(RunError, match=r"pixel_mean\.npy: .*; run python main\.py train"):
        load_weights(saved[0], other, saved[2])
    (saved[0] / WEIGHTS_FILE).unlink()
    with pytest.raises(RunError, match=r"model\.weights\.h5: .*; run python main\.py train"):
        load_weights(saved[0], other, saved[2])


def test_a_full_disk_leaves_the_last_weights(saved, other):
    folder, mean, _ = saved
    before = (folder / WEIGHTS_FILE).read_bytes()
    with file_limit(2000), pytest.raises(StorageError, match="File too large"):
        save_weights(folder, other, mean)
    assert (folder / WEIGHTS_FILE).read_bytes() == before


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_weights_load(name):
    from main import SAVED_MODELS

    record = read_record(SAVED_MODELS / name)
    size = {key: record["model_configs"][key] for key in ("depth", "width")}
    load_weights(SAVED_MODELS / name, resnet_v1(**size), record)
