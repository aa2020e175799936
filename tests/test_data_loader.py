"""DataLoader.py: data sets, splits, digests, and where images to classify are found."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import DataLoader
from machine.errors import DataError, UserError
from sources import shapes
from training.step import epoch_order


def test_the_embedded_set_needs_no_folder(monkeypatch):
    monkeypatch.setattr(shapes, "load", lambda: ("x", "y", "x_test", "y_test", "x_private"))
    data = DataLoader.load_data("/nowhere", "shapes")
    assert data == ("x", "y", "x_test", "y_test", shapes.CLASS_NAMES)
    assert data.x_test == "x_test"


# Splits and digests


@given(y=arrays(np.int32, st.integers(1, 200), elements=st.integers(0, 9)), data=st.data())
def test_a_split_is_disjoint_exact_stratified_and_in_order(y, data):
    valid_size = data.draw(st.integers(0, len(y) - 1))
    x = np.arange(len(y))
    train, y_train, valid, y_valid = DataLoader.train_valid_split(x, y, valid_size, seed=3)
    assert len(valid) == valid_size
    assert sorted([*train, *valid]) == list(range(len(y)))
    assert (np.diff(train) > 0).all() and (np.diff(valid) > 0).all()
    np.testing.assert_array_equal(y_train, y[train])
    np.testing.assert_array_equal(y_valid, y[valid])
    share = np.bincount(y, minlength=10) * valid_size / len(y)
    assert (np.abs(np.bincount(y_valid, minlength=10) - share) < 1).all()


def test_a_split_depends_on_the_seed_alone():
    x, y = np.arange(1_000), np.arange(1_000) % 10
    first, again, other = (DataLoader.train_valid_split(x, y, 100, s)[2] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # Another draw would be another validation part for every saved run.
    assert first[:5].tolist() == [19, 23, 27, 29, 45]


def test_images_keep_shape_and_types():
    y = np.arange(50, dtype=np.int32) % 10
    x = np.broadcast_to(y[:, None, None, None], (50, 32, 32, 3)).astype(np.uint8)
    for images, labels in zip(*[iter(DataLoader.train_valid_split(x, y, 20, 0))] * 2, strict=True):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert DataLoader.train_valid_split(x, y, 0, 0)[2].shape == (0, 32, 32, 3)


@pytest.mark.parametrize("valid_size", [-1, 50, 51])
def test_a_validation_part_out_of_range_is_a_user_error(valid_size):
    with pytest.raises(UserError, match=rf"0\.\.49, found {valid_size}"):
        DataLoader.train_valid_split(np.zeros(50), np.zeros(50, np.int32), valid_size, 0)


def test_a_digest_sees_values_dtype_shape_order_and_not_strides():
    a = np.arange(12, dtype=np.int32).reshape(3, 4)
    others = [a + 1, a.astype(np.int64), a.reshape(4, 3), a[:2]]
    assert len({DataLoader.digest(b) for b in [a, *others]}) == 5
    assert DataLoader.digest(a) == DataLoader.digest(np.asfortranarray(a))
    assert DataLoader.digest(a, others[0]) != DataLoader.digest(others[0], a)
    assert len(DataLoader.digest(a[:0])) == 64


# Images to classify: see test_arrays.py and test_pictures.py too


def test_what_is_neither_array_nor_picture_is_named(tmp_path):
    with pytest.raises(DataError, match="no such thing"):
        DataLoader.load_testing_images(tmp_path / "missing.npy")
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(DataError, match=r"notes\.txt: expected"):
        DataLoader.load_testing_images(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="found planar"):
        DataLoader.load_testing_images(tmp_path, "planar")
    os.mkfifo(tmp_path / "pipe.npy")  # nobody writes into it
    with pytest.raises(DataError, match="no such thing"):
        DataLoader.load_testing_images(tmp_path / "pipe.npy")


def test_compressed_arrays_are_refused_with_what_to_do(tmp_path):
    np.savez(tmp_path / "private.npz", np.zeros((1, 3072), np.uint8))
    with pytest.raises(DataError, match=r"one private \.npy file"):
        DataLoader.find_private_images(tmp_path)
    with pytest.raises(DataError, match=r"expected a \.npy file, found \.npz; save its array"):
        DataLoader.load_testing_images(tmp_path / "private.npz")


@pytest.mark.parametrize("folder", [".", "private", "cifar-10-batches-py", "my/data", "a/b/c/d/e"])
def test_the_private_images_are_found_below_the_folder(tmp_path, folder):
    assert DataLoader.find_private_images(tmp_path / "missing") is None
    assert DataLoader.find_private_images(tmp_path) is None
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    path = tmp_path / folder / "private_test_images_2022.npy"
    path.touch()
    assert DataLoader.find_private_images(tmp_path) == path
    (tmp_path / "Private.npy").touch()
    with pytest.raises(DataError, match=r"Private\.npy and 1 more"):
        DataLoader.find_private_images(tmp_path)


@pytest.mark.parametrize("name", ["private/images.npy", "test_private.NPY"])
def test_a_private_file_may_be_named_by_its_folder(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert DataLoader.find_private_images(tmp_path) == tmp_path / name


@pytest.mark.parametrize("name", ["private_test_images/1.png", "private_images.npz"])
def test_private_images_of_another_kind_are_named(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"found .*{name}; name .*--input"):
        DataLoader.find_private_images(tmp_path)


def test_replaced_labels_are_all_false_and_drawn_evenly():
    y = np.arange(5000, dtype=np.int32) % 5
    replaced = DataLoader.replace_labels(y, 0.4, 5, seed=0)
    false = replaced != y
    assert replaced.dtype == np.int32 and false.sum() == 2000
    shifts = np.bincount((replaced - y)[false] % 5, minlength=5)
    assert shifts[0] == 0 and (abs(shifts[1:] - 500) < 100).all()
    assert (replaced == DataLoader.replace_labels(y, 0.4, 5, seed=0)).all()
    for epoch in range(5):  # an epoch's order does not sort the false ones out
        first = epoch_order(0, epoch, len(y))[: len(y) // 2]
        assert 0.3 < (replaced != y)[first].mean() < 0.5
    assert (replaced != DataLoader.replace_labels(y, 0.4, 5, seed=1)).any()
    assert (DataLoader.replace_labels(y, 0.0, 5, seed=0) == y).all()
