"""Files that a reader finds whole or not at all, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from machine.errors import StorageError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Raises:
        StorageError: the disk is full, or the folder cannot be written or is gone.
    """
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path):
    """Open a temporary file beside ``path``; on success flush it to disk and rename it over.

    On any error the temporary file is removed and ``path`` stays what it was.

    Raises:
        StorageError: the disk is full, or the folder cannot be written or is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def storing(path: Path):
    """Turn the system's refusal to store something at ``path`` into one clear line."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was there is unchanged: free "
            "some space, or name another place"
        ) from error


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, 64 hexadecimal digits, in constant memory."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()
