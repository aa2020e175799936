"""CifarFiles.py: what is read is exactly what was stored, and nothing broken gets through."""

import contextlib
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import DataLoader
from machine.errors import DataError
from sources import cifar, download

ROWS = 4  # in each small batch
NAMES = tuple(cifar.BATCH_MD5)


class Python2Pickler(pickle._Pickler):
    """Writes byte strings and arrays the way the official batches hold them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_array(self, value):
        self.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
        self.save((0,))
        self.save(b"b")
        self.write(b"\x87R(K\x01")
        self.save(value.shape)
        self.write(b"cnumpy\ndtype\n(")
        self.save(value.dtype.str[1:].encode())
        self.write(b"K\x00K\x01tR(K\x03")
        self.save(b"|")
        self.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
        self.save(not value.flags.c_contiguous)
        self.save(value.tobytes("A"))
        self.write(b"tb")

    dispatch[bytes] = save_bytes
    dispatch[np.ndarray] = save_array


def pickled(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def batch(index, rows=ROWS, **changes):
    generator = np.random.default_rng(index)
    content = {
        b"batch_label": b"training batch",
        b"labels": generator.integers(0, 10, rows).tolist(),
        b"data": generator.integers(0, 256, (rows, 3072), np.uint8),
        b"filenames": [b"picture.png"] * rows,
    }
    return content | {key.encode(): value for key, value in changes.items()}


BATCHES = {name: batch(index) for index, name in enumerate(NAMES)}
FILES = {name: pickled(content) for name, content in BATCHES.items()}
BINARY_FILES = {
    f"{name}.bin": np.c_[np.uint8(content[b"labels"]), content[b"data"]].tobytes()
    for name, content in BATCHES.items()
}


def write_folder(data_dir, files=FILES, folder=cifar.PYTHON_FOLDER):
    (data_dir / folder).mkdir(parents=True)
    for name, content in files.items():
        (data_dir / folder / name).write_bytes(content)


def write_archive(path, files=FILES, folder=cifar.PYTHON_FOLDER, **first):
    """Writes a .tar.gz; `first` changes the fields of the first member."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            for key, value in first.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
            first = {}


def load(data_dir):
    """Loads small batches, which can never be the official ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*not the official file")
        return DataLoader.load_data(data_dir)


def assert_is_the_small_set(data):
    x_train, y_train, x_test, y_test = data
    assert [array.dtype for array in data] == [np.uint8, np.int32, np.uint8, np.int32]
    assert x_train.shape == (5 * ROWS, 32, 32, 3) and x_test.shape == (ROWS, 32, 32, 3)
    for images, labels, names in ((x_train, y_train, NAMES[:5]), (x_test, y_test, NAMES[5:])):
        rows = np.concatenate([BATCHES[name][b"data"] for name in names])
        expected = np.concatenate([BATCHES[name][b"labels"] for name in names])
        np.testing.assert_array_equal(labels, expected)
        for channel in range(3):
            plane = rows[:, 1024 * channel : 1024 * (channel + 1)]
            np.testing.assert_array_equal(images[..., channel].reshape(-1, 1024), plane)


# CIFAR-10


@pytest.mark.parametrize("place", [".", cifar.PYTHON_FOLDER])
def test_a_folder_is_read_from_outside_and_inside(tmp_path, place):
    write_folder(tmp_path)
    assert_is_the_small_set(load(tmp_path / place))


def test_both_archives_and_the_binary_folder_hold_the_same(tmp_path):
    binary = cifar.BINARY_FOLDER
    write_folder(tmp_path / "a", BINARY_FILES, binary)
    assert_is_the_small_set(load(tmp_path / "a"))
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    write_archive(tmp_path / "b" / cifar.BINARY_ARCHIVE, BINARY_FILES, binary)
    assert_is_the_small_set(load(tmp_path / "b"))
    write_archive(tmp_path / "c" / download.ARCHIVE_NAME)
    assert_is_the_small_set(load(tmp_path / "c"))


def test_the_folder_comes_before_the_archives(tmp_path):
    write_folder(tmp_path)
    (tmp_path / download.ARCHIVE_NAME).write_bytes(b"broken")
    (tmp_path / cifar.BINARY_ARCHIVE).write_bytes(b"broken")
    assert_is_the_small_set(load(tmp_path))


def test_each_batch_that_is_not_the_official_one_gets_one_warning_line(tmp_path):
    write_folder(tmp_path)
    with pytest.warns(UserWarning) as caught:
        DataLoader.load_data(tmp_path)
    assert len(caught) == len(NAMES)
    for warning, (name, md5) in zip(caught, cifar.BATCH_MD5.items(), strict=True):
        assert name in str(warning.message) and f"expected MD5 {md5}, found" in str(warning.message)
        assert "\n" not in str(warning.message)


def test_an_unofficial_binary_archive_gets_a_warning(tmp_path):
    write_archive(tmp_path / cifar.BINARY_ARCHIVE, BINARY_FILES, cifar.BINARY_FOLDER)
    with pytest.warns(UserWarning, match=cifar.BINARY_ARCHIVE_SHA256):
        DataLoader.load_data(tmp_path)


def test_without_any_form_the_archive_is_fetched(tmp_path, monkeypatch):
    def fetch(data_dir, url):
        assert url == "http://mirror/"
        data_dir.mkdir()
        write_archive(data_dir / download.ARCHIVE_NAME)
        return data_dir / download.ARCHIVE_NAME

    monkeypatch.setattr(download, "fetch", lambda data_dir, url: fetch(Path(data_dir), url))
    with pytest.warns(UserWarning, match="not the official"):
        assert_is_the_small_set(DataLoader.load_data(tmp_path / "new", mirror="http://mirror/"))


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_batch_is_named_and_not_downloaded(tmp_path, missing, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("downloaded"))
    files = {name: content for name, content in FILES.items() if name != missing}
    write_folder(tmp_path / "folder", files)
    with pytest.raises(DataError, match=f"no {missing}"):
        load(tmp_path / "folder")
    write_archive(tmp_path / download.ARCHIVE_NAME, files)
    with pytest.raises(DataError, match=f"no {missing}"):
        load(tmp_path)


def test_an_empty_folder_of_batches_is_not_downloaded(tmp_path):
    write_folder(tmp_path, {})
    for data_dir in (tmp_path, tmp_path / cifar.PYTHON_FOLDER):
        with pytest.raises(DataError, match="no data_batch_1"):
            load(data_dir)


DOUBLED = ()
for _ in range(60):
    DOUBLED = (DOUBLED, DOUBLED)
BROKEN_BATCHES = {
    "no pickle": (b"<html>", "Error"),
    "an empty file": (b"", "Error"),
    "cut short": (FILES["test_batch"][:-100], "Error"),
    "not a dict": (pickled([1, 2]), "keys"),
    "no labels": (pickled({b"data": BATCHES["test_batch"][b"data"]}), "keys"),
    "text keys": (pickled({"data": 0, "labels": 0}), "keys"),
    "no array": (pickled(batch(0, data=[1, 2, 3])), "Error"),
    "short rows": (pickled(batch(0, data=np.zeros((ROWS, 3071), np.uint8))), r"3071"),
    "no rows": (pickled(batch(0, rows=0)), r"\(0, 3072\)"),
    "Fortran order": (
        pickled(batch(0, data=np.zeros((3072, ROWS), np.uint8).T)),
        r"\(4, 3072\), Fortran",
    ),
    "four axes": (pickled(batch(0, data=np.zeros((ROWS, 3, 32, 32), np.uint8))), "32, 32"),
    "float pixels": (pickled(batch(0, data=np.zeros((ROWS, 3072), np.float32))), "f4"),
    "label 10": (pickled(batch(0, labels=[0, 1, 2, 10])), "label 10"),
    "label -1": (pickled(batch(0, labels=[0, 1, 2, -1])), "label -1"),
    "label true": (pickled(batch(0, labels=[0, 1, 2, True])), "label True"),
    "three labels": (pickled(batch(0, labels=[0, 1, 2])), "3 labels for 4 rows"),
    "a memo index of 2**31": (b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index"),
    "a string of 2 GiB": (b"\x80\x02T\xff\xff\xff\x7fabc.", "Error"),
    "a bytearray of 2**62": (b"\x80\x05\x96" + b"\0" * 7 + b"\x40.", "Error"),
    "a million lists": (b"\x80\x02" + b"]" * 1_000_000 + b".", "unreasonable"),
    "a million numbers": (b"\x80\x02(" + b"K\1" * 1_000_000 + b"l.", "unreasonable"),
    "nested tuples": (b"\x80\x02)" + b"\x85" * 100_000 + b".", "unreasonable"),
    "a label of 2**60 parts": (pickled(batch(0, labels=[0, 1, 2, DOUBLED])), "the label"),
    "an enormous array": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"\x8a\x06\0\0\0\0\0\x10\x85U\x01b\x87R.",
        "keys",
    ),
    "an enormous ndarray": (b"\x80\x02cnumpy\nndarray\n\x8a\x06\0\0\0\0\0\x10\x85\x85R.", "keys"),
}


@pytest.mark.parametrize("content, found", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_a_broken_batch_is_named_in_one_line_and_takes_no_memory(tmp_path, content, found):
    write_folder(tmp_path, FILES | {"test_batch": content})
    tracemalloc.start()
    with pytest.raises(DataError, match=f"test_batch: expected .*found .*({found})") as error:
        load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value) and download.ARCHIVE_URL in str(error.value)
    assert peak < 32 << 20


class Hostile:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_a_program(tmp_path, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps(Hostile(os.system, f"touch {marker}"), protocol)
    write_folder(tmp_path, FILES | {"data_batch_1": content})
    with pytest.raises(DataError, match=r"data_batch_1: .*forbidden global (posix|nt)\.system"):
        load(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins\neval", "builtins\ngetattr", "numpy\nload", "numpy\ndtype.type", "_codecs\nencode"],
)
def test_only_three_globals_are_known(tmp_path, name):
    write_folder(tmp_path, FILES | {"data_batch_1": f"c{name}\n.".encode()})
    with pytest.raises(DataError, match="forbidden global " + name.replace("\n", r"\.")):
        load(tmp_path)


def test_arrays_pickled_by_python_3_are_read_too(tmp_path):
    files = {name: pickle.dumps(content, 4) for name, content in BATCHES.items()}
    write_folder(tmp_path, files)
    assert_is_the_small_set(load(tmp_path))


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, len(FILES["test_batch"]) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_a_data_error_or_a_warning(place, byte):
    content = bytearray(FILES["test_batch"])
    content[place] = byte
    path = Path("test_batch")
    with contextlib.suppress(DataError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*not the official file")
        images, labels = cifar._read_pickled_batch(path, bytes(content))
        assert images.shape == (len(labels), 32, 32, 3) and 0 <= labels.min() <= labels.max() <= 9


@pytest.mark.parametrize(
    "content, found", [(b"", "0 bytes"), (b"\0" * 3072, "3,072 bytes"), (b"\x0a" * 3073, "10")]
)
def test_a_broken_binary_batch_is_named(tmp_path, content, found):
    files = BINARY_FILES | {"data_batch_2.bin": content}
    write_folder(tmp_path, files, cifar.BINARY_FOLDER)
    with pytest.raises(DataError, match=f"data_batch_2.bin: expected .*found {found}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "first, found",
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}, "regular file"),
        ({"type": tarfile.LNKTYPE, "linkname": "test_batch", "size": 0}, "regular file"),
        ({"type": tarfile.FIFOTYPE, "size": 0}, "regular file"),
        ({"name": "../data_batch_1"}, "no data_batch_1"),
        ({"name": "/cifar-10-batches-py/data_batch_1"}, "no data_batch_1"),
        ({"name": "cifar-10-batches-py/../cifar-10-batches-py/data_batch_1"}, "no data_batch_1"),
    ],
)
def test_only_regular_members_of_the_exact_name_are_read(tmp_path, first, found):
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    write_archive(data_dir / download.ARCHIVE_NAME, **first)
    with pytest.raises(DataError, match=f"{download.ARCHIVE_NAME}: expected .*{found}"):
        load(data_dir)
    assert [file.name for file in tmp_path.rglob("*")] == ["data", download.ARCHIVE_NAME]


def test_a_member_that_is_too_long_is_refused_before_it_is_read(tmp_path):
    member = tarfile.TarInfo(f"{cifar.PYTHON_FOLDER}/data_batch_1")
    member.size = cifar.BATCH_BYTES_MAX + 1
    (tmp_path / download.ARCHIVE_NAME).write_bytes(gzip.compress(member.tobuf()))
    with pytest.raises(DataError, match=f"data_batch_1 .*{member.size:,} bytes, where .*at most"):
        load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 10_000, -8_000])
def test_a_truncated_archive_is_an_error(tmp_path, kept):
    path = tmp_path / download.ARCHIVE_NAME
    write_archive(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{download.ARCHIVE_NAME}: expected"):
        load(tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / download.ARCHIVE_NAME
    monkeypatch.setattr(cifar, "ARCHIVE_BYTES_MAX", 50_000)
    write_archive(path, {"padding": b"\0" * 60_000} | FILES)
    with pytest.raises(DataError, match="more than 50,000 bytes"):
        load(tmp_path)
    monkeypatch.setattr(cifar, "ARCHIVE_BYTES_MAX", 1 << 20)
    write_archive(path, {f"{index}": b"" for index in range(100)} | FILES)
    with pytest.raises(DataError, match="more than 64 members"):
        load(tmp_path)


def test_a_batch_file_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setattr(cifar, "BATCH_BYTES_MAX", 10_000)
    with pytest.raises(DataError, match="data_batch_1: expected at most 10,000 bytes"):
        load(tmp_path)


def test_the_official_batches_are_right():
    if "CIFAR10_DIR" not in os.environ:
        pytest.skip("CIFAR10_DIR does not name a folder of the official data")
    x_train, y_train, x_test, y_test = DataLoader.load_data(os.environ["CIFAR10_DIR"])
    assert x_train.shape == (50_000, 32, 32, 3) and x_test.shape == (10_000, 32, 32, 3)
    assert np.bincount(y_train).tolist() == [5_000] * 10
    assert np.bincount(y_test).tolist() == [1_000] * 10
    mean = x_train.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
