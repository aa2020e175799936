"""DataLoader.py: what is read is exactly what was stored, and nothing broken gets through."""

import os
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import DataLoader
from machine.errors import DataError, UserError
from sources import shapes


def test_the_embedded_set_needs_no_folder(monkeypatch):
    monkeypatch.setattr(shapes, "load", lambda: ("x", "y", "x_test", "y_test", "x_private"))
    assert DataLoader.load_data("/nowhere", "shapes") == ("x", "y", "x_test", "y_test")
    assert DataLoader.CLASS_NAMES["shapes"] == tuple(shapes.CLASS_NAMES)


def test_an_unknown_data_set_is_a_user_error():
    with pytest.raises(UserError, match=r"cifar10, shapes.*'mnist'"):
        DataLoader.load_data("/nowhere", "mnist")


# Splits and digests


@settings(max_examples=100, deadline=None)
@given(y=arrays(np.int32, st.integers(1, 200), elements=st.integers(0, 9)), data=st.data())
def test_a_split_is_disjoint_exact_stratified_and_in_order(y, data):
    valid_size = data.draw(st.integers(0, len(y) - 1))
    train, valid = DataLoader.split_indices(y, valid_size, seed=3)
    assert train.dtype == valid.dtype == np.int64
    assert len(valid) == valid_size
    assert sorted([*train, *valid]) == list(range(len(y)))
    assert (np.diff(train) > 0).all() and (np.diff(valid) > 0).all()
    share = np.bincount(y, minlength=10) * valid_size / len(y)
    assert (np.abs(np.bincount(y[valid], minlength=10) - share) < 1).all()


def test_a_split_depends_on_the_seed_alone():
    y = np.arange(1_000) % 10
    first, again, other = (DataLoader.split_indices(y, 100, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_images_stay_with_their_labels():
    y = np.arange(50, dtype=np.int32) % 10
    x = np.broadcast_to(y[:, None, None, None], (50, 32, 32, 3)).astype(np.uint8)
    for images, labels in zip(*[iter(DataLoader.train_valid_split(x, y, 20, 0))] * 2, strict=True):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert DataLoader.train_valid_split(x, y, 0, 0)[2].shape == (0, 32, 32, 3)


@pytest.mark.parametrize("valid_size", [-1, 50, 51])
def test_a_validation_part_out_of_range_is_a_user_error(valid_size):
    with pytest.raises(UserError, match=rf"0\.\.49, found {valid_size}"):
        DataLoader.split_indices(np.zeros(50, np.int32), valid_size, 0)


def test_a_digest_sees_values_dtype_shape_order_and_not_strides():
    a = np.arange(12, dtype=np.int32).reshape(3, 4)
    others = [a + 1, a.astype(np.int64), a.reshape(4, 3), a[:2]]
    assert len({DataLoader.digest(b) for b in [a, *others]}) == 5
    assert DataLoader.digest(a) == DataLoader.digest(np.asfortranarray(a))
    assert DataLoader.digest(a, others[0]) != DataLoader.digest(others[0], a)
    assert len(DataLoader.digest(a[:0])) == 64


# Images to classify


def smooth_images(count, seed=0):
    """Returns uint8 [count, 32, 32, 3] smooth as photographs: random ramps with some noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32][:, None, ..., None] / 31
    low, right, down = generator.uniform(0, 80, (3, count, 1, 1, 3))
    return (low + right * x + down * y + generator.uniform(0, 8, (count, 32, 32, 3))).astype("u1")


FORMS = {
    "planar": lambda images: images.transpose(0, 3, 1, 2).reshape(-1, 3072),
    "interleaved": lambda images: images.reshape(-1, 3072),
    "nhwc": lambda images: images,
    "nchw": lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
}


def save(tmp_path, array):
    np.save(tmp_path / "images.npy", array)
    return tmp_path / "images.npy"


def read_all(images, batch_size=7):
    return np.concatenate(list(images.batches(batch_size)))


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u4", "i8", "f2", "<f4", ">f8"])
def test_every_layout_and_dtype_gives_the_same_images(tmp_path, layout, dtype):
    expected = smooth_images(20)
    path = save(tmp_path, FORMS[layout](expected).astype(dtype))
    for asked in ("auto", layout):
        images = DataLoader.load_testing_images(path, asked)
        assert (images.source, images.layout, len(images)) == ("images.npy", layout, 20)
        assert images.reason.startswith(layout) and "\n" not in images.reason
        pieces = list(images.batches(7))
        assert [piece.shape for piece in pieces] == [(size, 32, 32, 3) for size in (7, 7, 6)]
        assert all(piece.dtype == np.uint8 for piece in pieces)
        np.testing.assert_array_equal(np.concatenate(pieces), expected)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 99), batch_size=st.integers(1, 40))
def test_pieces_of_any_size_make_the_whole(tmp_path_factory, count, seed, batch_size):
    tmp_path = tmp_path_factory.mktemp("pieces")
    expected = smooth_images(count, seed)
    for layout, form in FORMS.items():
        images = DataLoader.load_testing_images(save(tmp_path, form(expected)), layout)
        np.testing.assert_array_equal(read_all(images, batch_size), expected)


def test_a_long_file_takes_constant_memory(tmp_path):
    path = tmp_path / "long.npy"
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (50_000, 3072)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 50_000 * 3072)
    tracemalloc.start()
    images = DataLoader.load_testing_images(path, "planar")
    assert sum(len(piece) for piece in images.batches(500)) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "rows",
    [
        np.full((1, 3072), 7, np.uint8),
        np.zeros((50, 3072), np.uint8),
        np.random.default_rng(0).integers(0, 256, (50, 3072), np.uint8),
    ],
    ids=["one flat image", "black images", "noise"],
)
def test_rows_that_could_be_either_are_left_to_the_user(tmp_path, rows):
    path = save(tmp_path, rows)
    with pytest.raises(DataError, match="--layout planar or --layout interleaved"):
        DataLoader.load_testing_images(path)
    for layout in ("planar", "interleaved"):
        assert "as asked for" in DataLoader.load_testing_images(path, layout).reason


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


def test_an_unknown_layout_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="'chw'"):
        DataLoader.load_testing_images(tmp_path, "chw")


@pytest.mark.parametrize("layout", FORMS)
@pytest.mark.parametrize("value", [-1.0, 256.0, 0.5, np.nan, np.inf])
@pytest.mark.parametrize("place", [3, 25])
def test_a_value_that_is_no_pixel_is_named_with_its_image(
    tmp_path, monkeypatch, layout, value, place
):
    monkeypatch.setattr(DataLoader, "SAMPLE_IMAGES", 10)
    images = FORMS[layout](smooth_images(30)).astype(np.float32)
    images.reshape(30, -1)[place, 5] = value
    path = save(tmp_path, images)
    with pytest.raises(DataError, match=rf"images.npy: .*found {value} in image {place};"):
        read_all(DataLoader.load_testing_images(path))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_within_0_and_1_are_refused_with_the_remedy(tmp_path, dtype):
    path = save(tmp_path, (smooth_images(5) / 255).astype(dtype))
    with pytest.raises(DataError, match=r"within 0\.\.1.*np\.round\(x \* 255\)\.astype\(np\.uint8"):
        DataLoader.load_testing_images(path)


def test_dark_integers_are_pixels(tmp_path):
    images = (smooth_images(5) > 60).astype(np.int64)
    np.testing.assert_array_equal(
        read_all(DataLoader.load_testing_images(save(tmp_path, images))), images
    )


@pytest.mark.parametrize(
    "array, found",
    [
        (np.array([os.system], object), "dtype object"),
        (np.zeros((2, 3072), bool), "dtype bool"),
        (np.zeros((2, 3072), complex), "dtype complex128"),
        (np.zeros((2, 3072), "S1"), r"dtype \|S1"),
        (np.zeros((2, 3071), np.uint8), r"\(2, 3071\)"),
        (np.zeros(3072, np.uint8), r"\(3072,\)"),
        (np.zeros((0, 3072), np.uint8), r"\(0, 3072\)"),
        (np.zeros((2, 28, 28, 3), np.uint8), r"\(2, 28, 28, 3\)"),
        (np.zeros((), np.uint8), r"\(\)"),
        (np.zeros((3072, 2), np.uint8).T, r"Fortran order; save np\.ascontiguousarray"),
    ],
)
def test_an_array_of_another_kind_is_refused(tmp_path, array, found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(tmp_path, array)
    with pytest.raises(DataError, match=f"images.npy: expected .*{found}"):
        DataLoader.load_testing_images(path)


@pytest.mark.parametrize("change", [-1, 1, -3072])
def test_a_file_longer_or_shorter_than_its_header_says_is_refused(tmp_path, change):
    path = save(tmp_path, smooth_images(4))
    content = path.read_bytes() + b"\0"
    path.write_bytes(content[: len(content) - 1 + change])
    with pytest.raises(DataError, match=f"expected 12,288 bytes.*found {12_288 + change:,}"):
        DataLoader.load_testing_images(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"\x93NUMPY\2\0\xff\xff\xff\xff{}", b"\x93NUMPY\7\0"],
)
def test_a_file_that_is_no_npy_is_refused(tmp_path, content):
    (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"images\.npy: expected a \.npy file"):
        DataLoader.load_testing_images(tmp_path / "images.npy")


def test_a_file_cut_while_it_is_read_is_an_error(tmp_path):
    path = save(tmp_path, smooth_images(20))
    pieces = DataLoader.load_testing_images(path).batches(10)
    next(pieces)
    os.truncate(path, 30_000)
    with pytest.raises(DataError, match="shorter"):
        next(pieces)


def test_a_folder_of_pictures_is_read_in_the_order_of_names(tmp_path):
    expected = smooth_images(5)
    for name, pixels in zip(("a.png", "a10.png", "a9.PNG", "b.png"), expected, strict=False):
        Image.fromarray(pixels).save(tmp_path / name, "PNG")
    (tmp_path / ".hidden").write_text("ignored")
    images = DataLoader.load_testing_images(tmp_path)
    assert (images.layout, len(images), images.source) == ("pictures", 4, tmp_path.name)
    np.testing.assert_array_equal(read_all(images, 3), expected[:4])


def test_lossless_modes_and_jpeg_are_read(tmp_path):
    pixels = smooth_images(1)[0]
    grey = Image.fromarray(pixels).convert("L")
    pictures = {
        "grey.png": (grey, np.stack([np.asarray(grey)] * 3, axis=2)),
        "opaque.png": (Image.fromarray(pixels).convert("RGBA"), pixels),
        "palette.png": (grey.convert("P"), np.stack([np.asarray(grey)] * 3, axis=2)),
    }
    for name, (picture, expected) in pictures.items():
        picture.save(tmp_path / name)
        found = read_all(DataLoader.load_testing_images(tmp_path / name))
        np.testing.assert_array_equal(found, expected[None])
    Image.fromarray(pixels).save(tmp_path / "photo.jpeg", quality=95)
    found = read_all(DataLoader.load_testing_images(tmp_path / "photo.jpeg"))
    assert np.abs(found[0].astype(int) - pixels).mean() < 8


BROKEN_PICTURES = {
    "small": (Image.new("RGB", (28, 28)), {}, "found 28x28"),
    "too large to decode": (Image.new("1", (20_000, 20_000)), {}, "found .*(bomb|20000x20000)"),
    "transparent": (Image.new("RGBA", (32, 32), (1, 2, 3, 254)), {}, "transparent"),
    "transparent colour": (Image.new("RGB", (32, 32)), {"transparency": (0, 0, 0)}, "transparent"),
    "transparent index": (Image.new("P", (32, 32)), {"transparency": 0}, "transparent"),
    "16 bits": (Image.new("I;16", (32, 32)), {}, "mode I;16"),
    "black and white": (Image.new("1", (32, 32)), {}, "mode 1"),
    "grey with alpha": (Image.new("LA", (32, 32)), {}, "mode LA"),
}


@pytest.mark.parametrize("picture, options, found", BROKEN_PICTURES.values(), ids=BROKEN_PICTURES)
def test_a_picture_that_would_lose_something_is_refused(tmp_path, picture, options, found):
    picture.save(tmp_path / "picture.png", **options)
    with pytest.raises(DataError, match=f"picture.png: expected a 32x32 opaque .*{found}"):
        read_all(DataLoader.load_testing_images(tmp_path / "picture.png"))


@pytest.mark.parametrize("kept", [0, 20, 60])
def test_a_truncated_picture_is_named(tmp_path, kept):
    path = tmp_path / "picture.png"
    Image.fromarray(smooth_images(1)[0]).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"picture\.png: expected a 32x32"):
        read_all(DataLoader.load_testing_images(path))


def test_what_is_no_picture_is_named(tmp_path):
    with pytest.raises(DataError, match="no such thing"):
        DataLoader.load_testing_images(tmp_path / "missing.npy")
    with pytest.raises(DataError, match="empty folder"):
        DataLoader.load_testing_images(tmp_path)
    (tmp_path / "notes.txt").write_text("not a picture")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match=r"notes\.txt: expected .npy, .png"):
            DataLoader.load_testing_images(path)
    with pytest.raises(DataError, match="no --layout planar"):
        DataLoader.load_testing_images(tmp_path, "planar")
    os.mkfifo(tmp_path / "pipe.npy")  # nobody writes into it
    with pytest.raises(DataError, match="no such thing"):
        DataLoader.load_testing_images(tmp_path / "pipe.npy")


def test_the_private_images_are_found_if_there_is_one_file(tmp_path):
    assert DataLoader.find_private_images(tmp_path / "missing") is None
    path = tmp_path / "private_test_images_2022.npy"
    path.touch()
    assert DataLoader.find_private_images(tmp_path) == path
    (tmp_path / "private_test_images.npy").touch()
    with pytest.raises(DataError, match=r"private_test_images\.npy, private_test_images_2022\.npy"):
        DataLoader.find_private_images(tmp_path)
