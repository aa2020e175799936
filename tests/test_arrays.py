"""sources/arrays.py: each array of images and labels is read as it was stored, or refused."""

import tracemalloc
import warnings

import numpy as np
import pytest

import DataLoader
from machine.errors import DataError


def smooth_images(count, seed=0):
    """uint8 [count, 32, 32, 3], smooth as photographs: random ramps with some noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32][:, None, ..., None] / 31
    low, right, down = generator.uniform(0, 80, (3, count, 1, 1, 3))
    return (low + right * x + down * y + generator.uniform(0, 8, (count, 32, 32, 3))).astype("u1")


def grey_noise(count):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 32, 32, 1), np.uint8).repeat(3, axis=-1)


FORMS = {
    "planar": lambda images: images.transpose(0, 3, 1, 2).reshape(-1, 3072),
    "interleaved": lambda images: images.reshape(-1, 3072),
    "nhwc": lambda images: images,
    "nchw": lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
}


def save(tmp_path, array, name="images.npy"):
    np.save(tmp_path / name, array)
    return tmp_path / name


def read_all(images, batch_size=7):
    return np.concatenate(list(images.batches(batch_size)))


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u4", "i8", "f2", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_layout_dtype_and_order_gives_the_same_images(tmp_path, layout, dtype, order):
    expected = smooth_images(20)
    path = save(tmp_path, FORMS[layout](expected).astype(dtype, order=order))
    for asked in ("auto", layout):
        images = DataLoader.load_testing_images(path, asked)
        assert (images.source, images.count) == ("images.npy", 20)
        assert images.reason.startswith(layout) and "\n" not in images.reason
        assert images.names is None and not images.notes
        pieces = list(images.batches(7))
        assert [piece.shape for piece in pieces] == [(size, 32, 32, 3) for size in (7, 7, 6)]
        assert all(piece.dtype == np.uint8 for piece in pieces)
        np.testing.assert_array_equal(np.concatenate(pieces), expected)


def test_header_version_3_is_read(tmp_path):
    expected = smooth_images(3)
    with (tmp_path / "images.npy").open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(file, expected, version=(3, 0))
    images = DataLoader.load_testing_images(tmp_path / "images.npy")
    np.testing.assert_array_equal(read_all(images), expected)


@pytest.mark.parametrize("dtype", ["|u1", "<f4"])
def test_a_long_file_takes_constant_memory(tmp_path, dtype):
    path = tmp_path / "long.npy"
    with path.open("wb") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": (20_000, 3072)}
        np.lib.format.write_array_header_1_0(file, header)
        np.full(3072, 255, dtype).tofile(file)  # so that not all are within 0..1
        file.truncate(128 + 20_000 * 3072 * np.dtype(dtype).itemsize)
    tracemalloc.start()
    images = DataLoader.load_testing_images(path, "planar")
    assert sum(len(piece) for piece in images.batches(500)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


# The layout of rows


@pytest.mark.parametrize(
    "rows",
    [
        np.full((1, 3072), 7, np.uint8),
        np.zeros((50, 3072), np.uint8),
        np.random.default_rng(0).integers(0, 256, (50, 3072), np.uint8),
        np.concatenate([FORMS[layout](grey_noise(5)) for layout in ("planar", "interleaved")]),
    ],
    ids=["one flat image", "black images", "noise", "grey images of both kinds"],
)
def test_rows_that_could_be_either_are_left_to_the_user(tmp_path, rows):
    path = save(tmp_path, rows)
    with pytest.raises(DataError, match="--layout planar or --layout interleaved"):
        DataLoader.load_testing_images(path)
    for layout in ("planar", "interleaved"):
        assert "as asked for" in DataLoader.load_testing_images(path, layout).reason


@pytest.mark.parametrize("layout", ["planar", "interleaved"])
@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("kind", ["noise", "smooth", "some", "black and grey"])
def test_grey_images_are_never_guessed_wrong(tmp_path, layout, count, kind):
    expected = grey_noise(count)
    if kind == "smooth":
        expected = smooth_images(count)[..., :1].repeat(3, axis=-1)
    elif kind == "some":
        expected = np.concatenate([expected, smooth_images(20)])
    elif kind == "black and grey":
        expected = np.concatenate([np.zeros((20, 32, 32, 3), np.uint8), expected])
    images = DataLoader.load_testing_images(save(tmp_path, FORMS[layout](expected)))
    assert images.reason.startswith(layout)
    np.testing.assert_array_equal(read_all(images), expected)


@pytest.mark.parametrize(
    "form, layout",
    [
        ("planar", "nhwc"),
        ("interleaved", "nchw"),
        ("nhwc", "nchw"),
        ("nchw", "nhwc"),
        ("nhwc", "planar"),
    ],
)
def test_a_forced_layout_must_fit_the_shape(tmp_path, form, layout):
    path = save(tmp_path, FORMS[form](smooth_images(3)))
    with pytest.raises(DataError, match=f"expected --layout .*{form}.*found {layout}"):
        DataLoader.load_testing_images(path, layout)


# Values and files that are no images


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5, np.nan, np.inf])
@pytest.mark.parametrize("place", [3, 1025])
def test_a_value_that_is_no_pixel_is_named_with_its_image(tmp_path, layout, value, place):
    images = FORMS[layout](smooth_images(1030)).astype(np.float32)
    images.reshape(1030, -1)[place, 5] = value
    path = save(tmp_path, images)
    with pytest.raises(DataError, match=rf"images.npy: .*found {value} in image {place};"):
        read_all(DataLoader.load_testing_images(path), 1000)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_within_0_and_1_are_refused_with_the_remedy(tmp_path, dtype):
    path = save(tmp_path, (smooth_images(5) / 255).astype(dtype))
    with pytest.raises(DataError, match=r"within 0\.\.1.*np\.round\(x \* 255\)\.astype\(np\.uint8"):
        DataLoader.load_testing_images(path)


def test_dark_integers_are_pixels(tmp_path):
    images = (smooth_images(5) > 60).astype(np.int64)
    found = read_all(DataLoader.load_testing_images(save(tmp_path, images)))
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    "array, found",
    [
        (np.zeros((2, 3072), bool), "bool"),
        (np.zeros((2, 3072), complex), "complex128"),
        (np.zeros((2, 3072), "S1"), r"\|S1"),
        (np.zeros((2, 3071), np.uint8), r"\(2, 3071\)"),
        (np.zeros(3072, np.uint8), r"\(3072,\)"),
        (np.zeros((0, 3072), np.uint8), r"\(0, 3072\)"),
        (np.zeros((2, 28, 28, 3), np.uint8), r"\(2, 28, 28, 3\)"),
        (np.zeros((), np.uint8), r"\(\)"),
    ],
)
def test_an_array_of_another_kind_is_refused(tmp_path, array, found):
    path = save(tmp_path, array)
    with pytest.raises(DataError, match=f"images.npy: expected .*{found}"):
        DataLoader.load_testing_images(path)


@pytest.mark.parametrize("change", [-1, 1, -3072])
def test_a_file_longer_or_shorter_than_its_header_says_is_refused(tmp_path, change):
    path = save(tmp_path, smooth_images(4))
    content = path.read_bytes() + b"\0"
    path.write_bytes(content[: len(content) - 1 + change])
    with pytest.raises(DataError, match=r"images\.npy: expected"):
        DataLoader.load_testing_images(path)


def test_a_file_that_is_no_npy_is_refused(tmp_path):
    contents = [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"\x93NUMPY\2\0\xff\xff\xff\xff{}", b"text"]
    np.savez(tmp_path / "archive.npz", smooth_images(1))
    for content in [*contents, (tmp_path / "archive.npz").read_bytes()]:
        (tmp_path / "images.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"images\.npy: expected .*\.npy file"):
            DataLoader.load_testing_images(tmp_path / "images.npy")


def test_arrays_are_not_unpickled(tmp_path, hostile):
    path = save(tmp_path, np.array([hostile], object))
    for read in (DataLoader.load_testing_images, lambda path: DataLoader.load_labels(path, 1, 10)):
        with pytest.raises(DataError, match=r"images\.npy: expected"):
            read(path)


# Labels


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_labels_are_read(tmp_path, dtype, shape):
    path = save(tmp_path, np.array([0, 9, 3, 3], dtype).reshape(shape))
    labels = DataLoader.load_labels(path, 4, 10)
    assert labels.dtype == np.int32 and labels.tolist() == [0, 9, 3, 3]


@pytest.mark.parametrize(
    "labels, found",
    [
        (np.array([0, 1, 2]), r"\(3,\)"),
        (np.array([0, 1, 2, 10]), "found 10 in row 3"),
        (np.array([0, -1, 2, 3]), "found -1 in row 1"),
        (np.array([0.0, 1, 2, 3]), "float64"),
        (np.eye(4, dtype=int), r"\(4, 4\)"),
        (np.array(["cat", "dog", "cat", "cat"]), "<U3"),
    ],
)
def test_other_labels_are_refused(tmp_path, labels, found):
    path = save(tmp_path, labels, "labels.npy")
    with pytest.raises(DataError, match=f"labels.npy: expected .*{found}"):
        DataLoader.load_labels(path, 4, 10)


def test_missing_labels_are_named(tmp_path):
    with pytest.raises(DataError, match=r"labels\.npy"):
        DataLoader.load_labels(tmp_path / "labels.npy", 4, 10)
