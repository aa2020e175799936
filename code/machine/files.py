"""Files that a reader finds whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine.errors import StorageError

_REMEDIES = {
    errno.ENOSPC: "free some space, or name a place on another disk",
    errno.EDQUOT: "free some space, or name a place on another disk",
    errno.EROFS: "the disk is read-only: name a place on another one",
    errno.EACCES: "name a place where you may write",
    errno.EPERM: "name a place where you may write",
    errno.EBUSY: "a mount point cannot be replaced: name a place inside of it, or another one",
    errno.ENOENT: "make its folder first, or name another place",
}


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Raises:
        StorageError: see ``writing``.
    """
    with writing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write plain values as JSON, see ``write_bytes``."""
    write_bytes(path, (json.dumps(value, indent=indent) + "\n").encode())


@contextlib.contextmanager
def writing(path: Path):
    """Open a temporary file beside ``path``; on success flush it to disk and rename it over.

    On any error the temporary file is removed and ``path`` stays what it was. Of a symbolic link
    the target is replaced. A pipe or a character device is written into.

    Raises:
        StorageError: the disk is full, the folder cannot be written or is gone, or ``path`` is a
            folder, a socket or a block device.
    """
    with storing(path):
        if is_stream(path):
            try:
                with path.open("wb") as file:
                    yield file
            except BrokenPipeError as error:
                raise StorageError(f"cannot write {path}: its reader ended too early") from error
            return
        path = Path(os.path.realpath(path))
        # Two containers can have the same process number on one disk.
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path)


@contextlib.contextmanager
def storing(path: Path):
    """Turn the system's refusal to store something at ``path`` into one clear line.

    A closed pipe passes: it may be the standard output of what is said meanwhile.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "name another place")
        raise StorageError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold the lock of a file, which is made if it is missing.

    The system releases the lock when its owners die, however they die.

    Args:
        path: the file.
        wait: until no other process has the lock.

    Yields:
        The file's descriptor; None if another process has the lock.

    Raises:
        StorageError: the file cannot be opened, or its file system has no locks.
    """
    file, held = _open_and_lock(path, wait)
    # Meanwhile its folder may have been moved, and another file may lie in its place.
    while held and not _lies_at(path, file):
        os.close(file)
        file, held = _open_and_lock(path, wait)
    try:
        yield file if held else None
    finally:
        os.close(file)


def _open_and_lock(path, wait):
    with storing(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return file, False
    except OSError as error:
        os.close(file)
        raise StorageError(
            f"{path}: expected a file system with locks, found {error.strerror}; name a folder "
            "on another one"
        ) from error
    return file, True


def _lies_at(path, file):
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:  # opening it again says what is wrong
        return False


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of ``path`` have left; no other process may be writing it."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink()


def file_sha256(path: Path) -> str:
    """Give the SHA-256 of a file, 64 hexadecimal digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_stream(path: Path) -> bool:
    """If ``path`` is a pipe or a character device; refuse what is no file either."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        kind = "folder" if stat.S_ISDIR(mode) else "socket or block device"
        raise StorageError(f"cannot write {path}: expected a file, found a {kind}; name a file")
    return not stat.S_ISREG(mode)


def _sync_folder(path: Path) -> None:
    """Make a rename last: without it, a power cut may bring the old content back."""
    # SMB, FUSE and the shares of virtual machines have no fsync of a folder, and some folders may
    # be written but not read.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
