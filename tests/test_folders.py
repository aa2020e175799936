"""sources/folders.py: a folder for each class becomes a data set, or is refused in one line."""

import numpy as np
import pytest
from tiny import write_pictures

import DataLoader
from machine.errors import DataError


def write(folder, count, level=0, size=32):
    colours = [(level, index, 0) for index in range(count)]
    write_pictures(folder, [np.full((size, size, 3), colour, np.uint8) for colour in colours])


def load(data_dir):
    return DataLoader.load_data(data_dir, "folder")


def test_a_folder_for_each_class_is_divided_by_class(tmp_path, capsys):
    for label, (name, count) in enumerate({"ant": 12, "Bee": 24, "wasp": 60}.items()):
        write(tmp_path / name, count, level=label, size=40 if name == "ant" else 32)
    data = load(tmp_path)
    assert data.class_names == ("Bee", "ant", "wasp")
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert np.bincount(data.y_train).tolist() == [20, 10, 50]
    assert np.bincount(data.y_test).tolist() == [4, 2, 10]
    level = np.array([1, 0, 2])
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        np.testing.assert_array_equal(x[:, 0, 0, 0], level[y])
    both = np.concatenate([data.x_train, data.x_test])
    assert len({picture.tobytes() for picture in both}) == 96
    assert "12 of 96 pictures were resized." in capsys.readouterr().err
    # The same test images for every run: one may begin with the weights of another.
    np.testing.assert_array_equal(load(tmp_path).x_test, data.x_test)


def test_folders_train_and_test_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 5), ("test", 2)):
        for label, name in enumerate("ab"):
            write(tmp_path / part / name, count, level=label)
    data = load(tmp_path)
    assert data.class_names == ("a", "b")
    assert data.y_train.tolist() == [0] * 5 + [1] * 5 and data.y_test.tolist() == [0, 0, 1, 1]
    assert data.x_test[:, 0, 0].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]


def test_two_pictures_are_enough(tmp_path):
    for name in "ab":
        write(tmp_path / name, 1)
    data = load(tmp_path)
    assert (len(data.x_train), len(data.x_test)) == (1, 1)


def no_folder(path):
    path.rmdir()


def one_class(path):
    write(path / "a", 3)


def empty_class(path):
    one_class(path)
    (path / "b").mkdir()


def text_among_pictures(path):
    one_class(path)
    write(path / "b", 3)
    (path / "b" / "notes.txt").write_text("not a picture")


def text_among_classes(path):
    one_class(path)
    write(path / "b", 3)
    (path / "notes.txt").write_text("not a class")


def folder_in_class(path):
    one_class(path)
    write(path / "b" / "c", 3)


def other_classes_in_test(path):
    for part, names in (("train", "ab"), ("test", "bc")):
        for name in names:
            write(path / part / name, 1)


@pytest.mark.parametrize(
    "make, found",
    [
        (no_folder, "cannot be read"),
        (lambda path: None, "found 0"),
        (one_class, "found 1"),
        (empty_class, "b: expected .*empty"),
        (text_among_pictures, r"notes\.txt: expected"),
        (text_among_classes, r"the file notes\.txt"),
        (folder_in_class, "b/c: expected"),
        (other_classes_in_test, "found a in one of them"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(tmp_path, make, found):
    path = tmp_path / "data"
    path.mkdir()
    make(path)
    with pytest.raises(DataError, match=found) as error:
        load(path)
    assert "\n" not in str(error.value)
