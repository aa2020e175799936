"""machine/files.py: a file is whole or not there, and what is no file is not replaced by one."""

import errno
import fcntl
import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from machine import files
from machine.errors import StorageError


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_file_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fail():
        with files.writing(path) as file:
            file.write(b"new, but")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_two_writers_with_one_process_number_both_write_a_whole_file(tmp_path):
    path = tmp_path / "file"
    with files.writing(path) as one:
        one.write(b"one")
        with files.writing(path) as two:
            two.write(b"two")
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one"


def test_a_link_keeps_pointing_and_its_target_gets_the_content(tmp_path):
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to("elsewhere/target")
    for data in (b"made through the link", b"replaced through the link"):
        files.write_bytes(link, data)
        assert link.is_symlink() and target.read_bytes() == data


def test_a_pipe_whose_reader_goes_is_an_error(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: path.open("rb").close())
    reader.start()
    with pytest.raises(StorageError), files.writing(path) as file:
        reader.join(30)
        file.write(b"x" * (1 << 20))


def test_a_device_is_written_into():
    reading, writing = os.openpty()
    path = Path(os.ttyname(writing))
    files.write_bytes(path, b"to the terminal")
    assert os.read(reading, 99) == b"to the terminal" and path.is_char_device()
    for end in (reading, writing):
        os.close(end)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(StorageError, match="found a folder"):
        files.write_bytes(tmp_path, b"")


def test_a_disk_without_fsync_of_a_folder_is_as_good(tmp_path, monkeypatch):
    sync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            failing(errno.EINVAL)()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_is_known_of_a_failing_disk_is_told(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StorageError, match=r"cannot write .*Input/output error"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EBUSY, "a mount point cannot be replaced"),
    ],
)
def test_a_refusal_has_its_cause_and_a_remedy_that_works(tmp_path, monkeypatch, number, remedy):
    monkeypatch.setattr(os, "replace", failing(number))
    with pytest.raises(StorageError, match=f"{os.strerror(number)}; {remedy}"):
        files.write_bytes(tmp_path / "file", b"")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*/gone/file: No such file.*; make its"):
        files.write_bytes(tmp_path / "gone" / "file", b"")


def test_a_closed_standard_output_is_not_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(BrokenPipeError), files.writing(tmp_path / "file"):
        raise BrokenPipeError


def test_a_lock_is_of_the_file_that_lies_in_its_place(tmp_path, monkeypatch):
    folder, flock = tmp_path / "run", fcntl.flock
    folder.mkdir()

    def move_first(file, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        folder.rename(tmp_path / "run-1")
        folder.mkdir()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", move_first)
    with files.locked(folder / ".lock") as one, files.locked(folder / ".lock") as other:
        assert one is not None and other is None


def test_only_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / ".file.999-0123abcd.tmp"
    others = [tmp_path / name for name in ("file", ".mine.tmp", "file.1.tmp", ".file2.9-0.tmp")]
    for path in (left, *others):
        path.touch()
    files.remove_leftovers(tmp_path / "file")
    assert not left.exists() and all(path.exists() for path in others)


def test_the_digest_of_a_file(tmp_path):
    files.write_bytes(tmp_path / "file", b"x" * 3_000_000)
    assert files.file_sha256(tmp_path / "file") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
