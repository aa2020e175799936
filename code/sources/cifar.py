"""The official files of CIFAR-10 to arrays: found, verified, and read as data, never as programs.

A batch is unpickled without building any object that its pickle asks for, archives are read by
member name and never unpacked, and every read has a bound.
"""

import gzip
import hashlib
import io
import os
import pickle
import pickletools
import reprlib
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from machine import files
from machine.errors import DataError
from sources import download

PYTHON_FOLDER, BINARY_FOLDER = "cifar-10-batches-py", "cifar-10-batches-bin"
BINARY_ARCHIVE = "cifar-10-binary.tar.gz"
BINARY_ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
BATCH_BYTES_MAX = 64 << 20  # an official batch has 31 MB
ARCHIVE_BYTES_MAX = 256 << 20  # decompressed; an official archive has 186 MB
ARCHIVE_MEMBERS_MAX = 64  # an official archive has 9
PIXELS = 3 * 32 * 32


def find(data_dir: Path) -> Path | None:
    """Finds CIFAR-10 in a folder, in any of its official forms.

    Args:
        data_dir: folder that has one of them, or is one.

    Returns:
        The folder or archive to `read`; None if there is nothing of CIFAR-10.
    """
    # Not Path.exists, which raises where a folder may not be read.
    forms = (PYTHON_FOLDER, download.ARCHIVE_NAME, BINARY_ARCHIVE, BINARY_FOLDER)
    if not os.path.exists(data_dir / PYTHON_FOLDER) and (
        data_dir.name == PYTHON_FOLDER or any(os.path.exists(data_dir / name) for name in BATCH_MD5)
    ):
        return data_dir
    return next((data_dir / form for form in forms if os.path.exists(data_dir / form)), None)


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Reads and verifies all batches of a folder or archive.

    Args:
        path: what `find` found.

    Returns:
        `(x_train, y_train, x_test, y_test)`: uint8 [N, 32, 32, 3] in 0..255 and int32 [N] in 0..9.

    Raises:
        DataError: a file is missing or broken.
    """
    binary = path.name in (BINARY_ARCHIVE, BINARY_FOLDER)
    if path.name == BINARY_ARCHIVE:
        _warn_unless_official(path, "SHA-256", BINARY_ARCHIVE_SHA256, _sha256(path))
    files = {name + (".bin" if binary else ""): name for name in BATCH_MD5}
    batches = {}
    for name, data in (_folder_files if path.is_dir() else _archive_files)(path, list(files)):
        read_batch = _read_binary_batch if binary else _read_pickled_batch
        batches[files[name]] = read_batch(path / name, data)
    if missing := [name for name, batch in files.items() if batch not in batches]:
        raise _broken(path, f"{len(files)} batches", f"no {missing[0]}")
    *train, (x_test, y_test) = (batches[name] for name in BATCH_MD5)
    x_train, y_train = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return x_train, y_train, x_test, y_test


def _broken(path: Path, expected: str, found: object) -> DataError:
    found = " ".join(str(found).split())[:200]
    return DataError(
        f"{path}: expected {expected}, found {found}; replace it from {download.ARCHIVE_URL}"
    )


def _warn_unless_official(path: Path, kind: str, expected: str, found: str) -> None:
    if found != expected:
        warnings.warn(
            f"{path}: sound, but not the official file: expected {kind} {expected}, found {found}",
            stacklevel=3,
        )


def _sha256(path: Path) -> str:
    try:
        return files.file_sha256(path)
    except OSError as error:
        raise _broken(path, "a readable file", error) from error


def _folder_files(folder: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each file; a missing one is left out."""
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > BATCH_BYTES_MAX:
            raise _broken(path, f"at most {BATCH_BYTES_MAX:,} bytes", f"{path.stat().st_size:,}")
        try:
            yield name, path.read_bytes()
        except OSError as error:
            raise _broken(path, "a readable file", error) from error


class _BoundedStream:
    """A decompressed stream that ends with an error, not with the memory of the machine."""

    def __init__(self, stream: gzip.GzipFile, left: int):
        self.stream, self.left = stream, left

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"more than {ARCHIVE_BYTES_MAX:,} bytes of decompressed data")
        return data


def _archive_files(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each wanted member, in one pass; a missing one is left out."""
    folder = PYTHON_FOLDER if path.name == download.ARCHIVE_NAME else BINARY_FOLDER
    wanted = {f"{folder}/{name}": name for name in names}
    try:
        with (
            gzip.open(path) as stream,
            tarfile.open(fileobj=_BoundedStream(stream, ARCHIVE_BYTES_MAX), mode="r|") as archive,
        ):
            for count, member in enumerate(archive, 1):
                if count > ARCHIVE_MEMBERS_MAX:
                    raise ValueError(f"more than {ARCHIVE_MEMBERS_MAX} members")
                if member.name not in wanted:
                    continue
                if not member.isreg() or member.size > BATCH_BYTES_MAX:
                    raise ValueError(
                        f"{member.name} of type {member.type!r} and {member.size:,} bytes, where "
                        f"a regular file of at most {BATCH_BYTES_MAX:,} bytes should be"
                    )
                yield wanted.pop(member.name), archive.extractfile(member).read()
                if not wanted:
                    return
    except Exception as error:  # gzip, zlib and tarfile have a dozen kinds of them
        raise _broken(path, "a sound .tar.gz", f"{type(error).__name__}: {error}") from error


def _read_binary_batch(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads rows of one label byte and 3,072 planar pixels; returns images and labels."""
    if not data or len(data) % (1 + PIXELS):
        raise _broken(path, f"rows of {1 + PIXELS:,} bytes", f"{len(data):,} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    if rows[:, 0].max() > 9:
        raise _broken(path, "labels in 0..9", rows[:, 0].max())
    return to_nhwc(rows[:, 1:], "planar"), rows[:, 0].astype(np.int32)


class _Parts:
    """What a pickle tells about an array or its dtype: plain values, nothing is built from them."""

    def __init__(self, arguments: tuple):
        self.arguments = arguments

    def __setstate__(self, state: tuple):
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Knows the three globals of an official batch, and calls none of them."""

    GLOBALS = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),  # the same function since numpy 2
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Callable[..., _Parts]:
        if (module, name) not in self.GLOBALS:
            raise pickle.UnpicklingError(f"the forbidden global {module}.{name}")
        return lambda *arguments: _Parts(arguments)


DATA_OPCODES_MAX = 200_000  # an official batch has 30,000
OTHER_OPCODES_MAX = 1_000  # an official batch has 60


def _check_opcodes(data: bytes) -> None:
    """Refuses a pickle whose unpickling could take much more memory or stack than its length.

    Every length inside is compared with the data before it is allocated, the memo is bounded
    (its table is as long as its highest index), and so are the objects and their nesting.
    """
    bulk = other = 0
    for opcode, argument, _ in pickletools.genops(data):
        if "BIN" in opcode.name or opcode.name == "MEMOIZE":  # strings, small integers, memo
            bulk += 1
        else:
            other += 1
        if bulk > DATA_OPCODES_MAX or other > OTHER_OPCODES_MAX:
            raise pickle.UnpicklingError(f"an unreasonable number of {opcode.name} and the like")
        if opcode.name.endswith("PUT") and argument > DATA_OPCODES_MAX:
            raise pickle.UnpicklingError(f"an unreasonable memo index {argument}")


def _read_pickled_batch(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads a batch of the Python form; returns images [n, 32, 32, 3] and labels [n]."""
    try:
        _check_opcodes(data)
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
            raise ValueError("no dict with the keys b'data' and b'labels'")
        _, shape, dtype, fortran_order, pixels = batch[b"data"].state
        labels = batch[b"labels"]
        code = dtype.arguments[0]
        if code not in (b"u1", "u1") or fortran_order or shape[1:] != (PIXELS,) or shape[0] < 1:
            order = "Fortran" if fortran_order else "C"
            raise ValueError(f"{reprlib.repr(code)}, shape {reprlib.repr(shape)}, {order} order")
        rows = np.frombuffer(pixels, np.uint8).reshape(shape)
        if not isinstance(labels, list) or len(labels) != shape[0]:
            raise ValueError(f"{len(labels)} labels for {shape[0]} rows")
        for label in labels:
            if type(label) is not int or not 0 <= label <= 9:
                raise ValueError(f"the label {reprlib.repr(label)}")
    except Exception as error:  # a pickle may raise anything
        raise _broken(
            path,
            "a pickled batch of uint8 rows [n, 3072] in C order and n labels in 0..9",
            f"{type(error).__name__}: {error}",
        ) from error
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    _warn_unless_official(path, "MD5", BATCH_MD5[path.name], md5)
    return to_nhwc(rows, "planar"), np.array(labels, np.int32)


def to_nhwc(images: np.ndarray, layout: str) -> np.ndarray:
    """Brings uint8 images of any layout to [N, 32, 32, 3] in C order."""
    if layout in ("interleaved", "nhwc"):
        return images.reshape(-1, 32, 32, 3)
    planes = images.reshape(-1, 3, 32, 32)
    images = np.empty((len(planes), 32, 32, 3), np.uint8)
    for channel in range(3):  # six times as fast as one transposing copy
        images[..., channel] = planes[:, channel]
    return images
