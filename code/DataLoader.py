"""Data to uint8 NHWC images and int32 labels: data sets to train on, and images to classify."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machine.errors import DataError, UserError
from sources import arrays, cifar, folders, pictures, shapes
from sources.arrays import load_labels as load_labels

TEST_SHARE = 6  # one of so many pictures of a data set of one's own, as in CIFAR-10


class DataSet(NamedTuple):
    """Images uint8 ``[N, 32, 32, 3]`` in 0..255, labels int32 ``[N]``, and the labels' names."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]


def load_data(data_dir: str | Path, dataset: str = "cifar10", mirror: str | None = None) -> DataSet:
    """Load a data set; CIFAR-10 and CIFAR-100 are downloaded where they are not found.

    Args:
        data_dir: folder of the data; "shapes" is embedded and does not use it.
        dataset: "cifar10", "cifar100", "shapes", or "folder" for ``folders.read``.
        mirror: http(s) address to download from, see ``download.fetch``.

    Returns:
        The data set; the official CIFAR ones have 50,000 training and 10,000 test images. A folder
        without test images of its own gives a sixth of each class, the same ones to every run.

    Raises:
        DataError: a file is missing or damaged.
        DownloadError, StorageError: see ``download.fetch``.
    """
    data_dir = Path(data_dir)
    if dataset == "shapes":
        return DataSet(*shapes.load()[:4], shapes.CLASS_NAMES)
    official = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}
    if source := official.get(dataset):
        return DataSet(*cifar.load(data_dir, source, mirror), source.class_names)
    (x, y), test, class_names, notes = folders.read(data_dir)
    for note in notes:
        print(note, file=sys.stderr)
    if test:
        return DataSet(x, y, *test, class_names)
    return DataSet(*train_valid_split(x, y, -(-len(y) // TEST_SHARE), 0), class_names)


def train_valid_split(
    x: np.ndarray, y: np.ndarray, valid_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a stratified validation part: every class has its proportional share (±1 image).

    Args:
        x: images ``[N, ...]``.
        y: labels, integers ``[N]``.
        valid_size: number of validation images, 0..N-1.
        seed: seed of the draw, a non-negative integer.

    Returns:
        ``(x_train, y_train, x_valid, y_valid)``: copies; each part keeps the original order.

    Raises:
        UserError: valid_size is out of range.
    """
    if not 0 <= valid_size < len(y):
        raise UserError(f"valid_size: expected 0..{len(y) - 1}, found {valid_size}; choose another")
    classes, counts = np.unique(y, return_counts=True)
    shares, remainders = np.divmod(counts.astype(np.int64) * valid_size, len(y))
    largest = np.argsort(-remainders, kind="stable")[: valid_size - shares.sum()]
    shares[largest] += 1
    generator = np.random.Generator(np.random.PCG64(seed))
    valid = np.zeros(len(y), bool)
    for label, share in zip(classes, shares, strict=True):
        valid[generator.permutation(np.flatnonzero(y == label))[:share]] = True
    return x[~valid], y[~valid], x[valid], y[valid]


def replace_labels(y: np.ndarray, share: float, num_classes: int, seed: int) -> np.ndarray:
    """Give a share of the images, drawn at random, the label of another class.

    Args:
        y: labels, integers ``[N]``, 0..K-1.
        share: of the labels, 0..1; it is rounded to whole images.
        num_classes: K.
        seed: seed of the draw, a non-negative integer.

    Returns:
        The labels, a copy; each false one is another class with equal probability.
    """
    # Not the stream of an epoch's order, PCG64([seed, n]), nor the split's, which is that of n = 0.
    stream = np.random.SeedSequence(seed, spawn_key=(0,))
    generator = np.random.Generator(np.random.PCG64(stream))
    chosen = generator.permutation(len(y))[: round(share * len(y))]
    replaced = y.copy()
    replaced[chosen] = (y[chosen] + generator.integers(1, num_classes, len(chosen))) % num_classes
    return replaced


def digest(*values: np.ndarray) -> str:
    """Give the SHA-256 (64 hexadecimal digits) over dtype, shape and bytes of arrays."""
    sha256 = hashlib.sha256()
    for array in values:
        sha256.update(f"{array.dtype.str} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return sha256.hexdigest()


class TestingImages(NamedTuple):
    """Images to classify.

    Attributes:
        source: name of the file or folder.
        reason: one line: the layout of an array, or "pictures", and how that was decided.
        count: number of images.
        read: gives images start..stop, as far as there are, as uint8 ``[n, 32, 32, 3]`` in 0..255;
            raises DataError where a value of an array is not an integer in 0..255.
        names: file names of pictures; None for an array.
        notes: a sentence for each kind of change to pictures.
    """

    source: str
    reason: str
    count: int
    read: Callable[[int, int], np.ndarray]
    names: list[str] | None = None
    notes: Sequence[str] = ()

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yield all images in order, ``batch_size`` at a time."""
        for start in range(0, self.count, batch_size):
            yield self.read(start, start + batch_size)


def load_testing_images(
    path: str | Path, layout: str = "auto", skip_damaged: bool = False
) -> TestingImages:
    """Open images to classify: an array of any length in constant memory, or pictures.

    Args:
        path: a ``.npy`` file (``arrays.open_images``), or a PNG or JPEG of any size, or a folder of
            those, taken in natural order (``pictures.read_pictures``).
        layout: of a ``.npy`` file.
        skip_damaged: leave damaged pictures out instead of refusing all.

    Returns:
        The images.

    Raises:
        DataError: a missing or damaged file, or an array that does not fit.
    """
    path = Path(path)
    # Not Path.is_file, which raises where a folder may not be read. A pipe would be waited for.
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise DataError(f"{path}: expected a .npy file, picture or folder, found no such thing")
    if path.suffix.lower() == ".npz" and not path.is_dir():
        raise DataError(f"{path}: expected a .npy file, found .npz; save its array by numpy.save")
    if path.suffix.lower() == ".npy" and not path.is_dir():
        return TestingImages(path.name, *arrays.open_images(path, layout))
    if layout != "auto":
        raise DataError(f"{path}: expected no --layout for pictures, found {layout}; leave it out")
    files = pictures.list_pictures(path) if path.is_dir() else [path]
    x, names, notes = pictures.read_pictures(files, skip_damaged)
    reason = "pictures: read by Pillow"
    return TestingImages(path.name, reason, len(x), lambda i, j: x[i:j], names, notes)


def find_private_images(data_dir: str | Path) -> Path | None:
    """Find the one .npy file below a folder with "private" in its path from there.

    Raises:
        DataError: there are more, or private images of another kind.
    """
    data_dir = Path(data_dir)
    paths = [
        path
        for path in cifar.files_below(data_dir)
        if "private" in str(path.relative_to(data_dir)).lower()
        and path.suffix.lower() in (".npy", ".npz", ".png", ".jpg", ".jpeg")
    ]
    if len(paths) > 1 or (paths and paths[0].suffix.lower() != ".npy"):
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise DataError(
            f"{data_dir}: expected one private .npy file, found {paths[0]}{more}; name the file or "
            "folder with --input"
        )
    return paths[0] if paths else None
