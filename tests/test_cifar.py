"""sources/cifar.py: only official bytes are read, wherever they lie and in whatever wrapping."""

import os
import pickle
import pwd
import tarfile
from pathlib import Path

import numpy as np
import pytest
from batches import ARCHIVE, BATCHES, FILES, SOURCE, TEST, TRAIN, archive, pickled, source

import DataLoader
from machine.errors import DataError
from sources import cifar, download


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("downloaded"))


def write(folder, files=FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def assert_is_the_small_set(data):
    assert [array.dtype for array in data] == [np.uint8, np.int32, np.uint8, np.int32]
    for images, labels, names in ((*data[:2], TRAIN), (*data[2:], TEST)):
        rows = np.concatenate([BATCHES[name][b"data"] for name in names])
        np.testing.assert_array_equal(images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        expected = np.concatenate([BATCHES[name][b"labels"] for name in names])
        np.testing.assert_array_equal(labels, expected)


# Wrappings that people have


def test_a_user_whom_the_system_does_not_know_has_no_cache_of_keras(tmp_path, monkeypatch):
    def unknown(_):
        raise KeyError

    for name in ("HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    write(tmp_path / "data")
    assert_is_the_small_set(cifar.load(tmp_path / "data", SOURCE))


@pytest.mark.parametrize(
    "folder",
    [
        ".",
        "cifar-10-batches-py",
        "cifar-10-batches-py-target/cifar-10-batches-py",
        "datasets/cifar/a folder/too deep",
    ],
)
def test_batches_are_found_in_any_folder(tmp_path, folder):
    write(tmp_path / "data" / folder)
    assert_is_the_small_set(cifar.load(tmp_path / "data", SOURCE))


@pytest.mark.parametrize(
    "name",
    ["cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive"],
)
def test_the_archive_is_found_under_any_name(tmp_path, name):
    write(tmp_path / "data", {name: ARCHIVE})
    assert_is_the_small_set(cifar.load(tmp_path / "data", SOURCE))
    assert_is_the_small_set(cifar.load(tmp_path / "data" / name, SOURCE))


def test_a_plain_tar_is_read(tmp_path):
    write(tmp_path / "data", {"cifar-10-python.tar": archive(mode="w:")})
    assert_is_the_small_set(cifar.load(tmp_path / "data", SOURCE))


def test_the_cache_of_keras_is_used(tmp_path):
    write(tmp_path / "keras/datasets/cifar-10-batches-py-target/cifar-10-batches-py")
    assert_is_the_small_set(cifar.load(tmp_path / "data", SOURCE))


def test_an_archive_completes_and_replaces_batches(tmp_path):
    write(tmp_path, {TRAIN[0]: FILES[TRAIN[0]], TRAIN[1]: b"damaged", "x.tar.gz": ARCHIVE})
    assert_is_the_small_set(cifar.load(tmp_path, SOURCE))


def test_fine_labels_are_read_by_their_key(tmp_path):
    files = {
        name: pickled({**content, b"fine_labels": [99, 0, 5, 7]})
        for name, content in BATCHES.items()
    }
    write(tmp_path, files)
    loaded = cifar.load(tmp_path, source(files, b"fine_labels")[0])
    assert loaded[3].tolist() == [99, 0, 5, 7]


def test_the_official_names_are_10_and_100_in_alphabetical_order():
    for each, count in ((cifar.CIFAR10, 10), (cifar.CIFAR100, 100)):
        assert len(set(each.class_names)) == count
        assert list(each.class_names) == sorted(each.class_names)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_each_name_is_its_own_official_data_set(monkeypatch, tmp_path, name):
    monkeypatch.setattr(cifar, "load", lambda folder, source, mirror: [source, folder, mirror, 0])
    source = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name]
    found = DataLoader.load_data(tmp_path, name, "mirror")
    assert found == (source, tmp_path, "mirror", 0, source.class_names)


# What is not official


@pytest.mark.parametrize("missing", BATCHES)
def test_a_missing_batch_is_named_and_not_downloaded(tmp_path, missing):
    write(tmp_path, {name: content for name, content in FILES.items() if name != missing})
    with pytest.raises(DataError, match=f"expected {missing} of MD5 "):
        cifar.load(tmp_path, SOURCE)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", FILES["test_batch"][:-100], FILES["test_batch"] + b"\0", FILES[TRAIN[0]]],
    ids=["empty", "no pickle", "cut", "longer", "another batch"],
)
def test_other_bytes_under_a_batch_s_name_are_refused_by_path(tmp_path, content):
    write(tmp_path / "folder", FILES | {"test_batch": content})
    with pytest.raises(DataError, match="folder/test_batch: expected test_batch of MD5") as error:
        cifar.load(tmp_path, SOURCE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrapping", ["folder", "tar"])
def test_a_hostile_pickle_is_never_unpickled(tmp_path, wrapping, hostile):
    files = FILES | {"data_batch_1": pickle.dumps(hostile)}
    write(tmp_path, {"x.tar": archive(files, "w:")} if wrapping == "tar" else files)
    if wrapping == "tar":
        (tmp_path / "test_batch").write_bytes(FILES["test_batch"])
    with pytest.raises(DataError, match="expected data_batch_1 of MD5"):
        cifar.load(tmp_path, SOURCE)


@pytest.mark.parametrize(
    "content, name",
    [
        (pickle.dumps(os.system), "system"),
        (b"cbuiltins\neval\n.", "eval"),
        (b"cnumpy\nload\n.", "load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0adtype.type\x93.", "dtype"),
    ],
)
def test_even_under_an_official_checksum_only_arrays_are_built(tmp_path, content, name):
    files = FILES | {"test_batch": content}
    write(tmp_path, files)
    with pytest.raises(DataError, match=f"test_batch: .*forbidden global .*{name}"):
        cifar.load(tmp_path, source(files)[0])


def fetch_the_archive(folder, *archive, mirror=None):
    *_, mirror = archive
    assert mirror == "http://mirror/"
    write(folder, {SOURCE.archive: ARCHIVE})
    return folder / SOURCE.archive


@pytest.mark.parametrize(
    "seen",
    [
        None,
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin/data_batch_1.bin",
        "my/cifar-10-python (1).tar.gz",
    ],
)
def test_what_is_seen_and_not_official_is_named_before_the_download(
    tmp_path, monkeypatch, capsys, seen
):
    monkeypatch.setattr(download, "fetch", fetch_the_archive)
    if seen:
        write((tmp_path / seen).parent, {Path(seen).name: b"something else"})
    assert_is_the_small_set(cifar.load(tmp_path, SOURCE, "http://mirror/"))
    said = capsys.readouterr().err
    assert str(tmp_path / seen) in said if seen else said == ""


def test_links_out_of_an_archive_and_pipes_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:") as tar:
        member = tarfile.TarInfo("data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    os.mkfifo(tmp_path / "test_batch")  # nobody writes into it
    write(tmp_path, {"data_batch_2": FILES["data_batch_2"]})
    with pytest.raises(DataError, match="data_batch_1"):
        cifar.load(tmp_path, SOURCE)


def test_a_cut_tar_gives_what_is_sound_in_it(tmp_path):
    whole = archive(mode="w:")
    write(tmp_path, {"x.tar": whole[: whole.index(b"test_batch") + 700]})
    write(tmp_path, {"test_batch": FILES["test_batch"]})
    assert_is_the_small_set(cifar.load(tmp_path, SOURCE))
    (tmp_path / "x.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match="data_batch_"):
        cifar.load(tmp_path, SOURCE)


def test_damage_in_the_cache_of_keras_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fetch", fetch_the_archive)
    write(tmp_path / "keras" / "datasets", FILES | {"test_batch": b"damaged"})
    assert_is_the_small_set(cifar.load(tmp_path / "data", SOURCE, "http://mirror/"))


def test_the_official_batches_are_right():
    if "CIFAR10_DIR" not in os.environ:
        pytest.skip("CIFAR10_DIR does not name a folder of the official data")
    data = DataLoader.load_data(os.environ["CIFAR10_DIR"])
    assert data.x_train.shape == (50_000, 32, 32, 3) and data.x_test.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.y_train).tolist() == [5_000] * 10
    assert np.bincount(data.y_test).tolist() == [1_000] * 10
    assert data.class_names[data.y_test[0]] == "cat"
    mean = data.x_train.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
