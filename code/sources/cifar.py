"""CIFAR-10 and CIFAR-100: official files found, verified by checksum, and only then read."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from machine.errors import DataError
from machine.files import file_sha256
from sources import download
from sources.arrays import to_nhwc

_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm"""


class Source(NamedTuple):
    """An official archive, the MD5 of its batches, and the key of the labels in a batch."""

    archive: str
    archive_bytes: int
    archive_sha256: str
    train_md5: dict[str, str]
    test_md5: dict[str, str]
    labels: bytes
    class_names: tuple[str, ...]


CIFAR10 = Source(
    "cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    {"test_batch": "40351d587109b95175f43aff81a1287e"},
    b"labels",
    tuple(_CIFAR10_NAMES.split()),
)
CIFAR100 = Source(
    "cifar-100-python.tar.gz",
    169_001_437,
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    {"train": "16019d7e3df5f24257cddd939b257f8d"},
    {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    b"fine_labels",
    tuple(_CIFAR100_NAMES.split()),
)


def load(
    data_dir: Path, source: Source = CIFAR10, mirror: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Load the official images wherever they lie below a folder, or in Keras's cache.

    These are batches in any folder, the archive under any name, or its unpacked ``.tar``. Without
    any of them, the archive is downloaded into the folder.

    Args:
        data_dir: where to look, and where to download to.
        source: ``CIFAR10`` or ``CIFAR100``.
        mirror: see ``download.fetch``.

    Returns:
        ``(x_train, y_train, x_test, y_test)``: uint8 ``[N, 32, 32, 3]`` and int32 ``[N]``.

    Raises:
        DataError: batches are there, but not all of them are official.
        DownloadError, StorageError: see ``download.fetch``.
    """
    # Not Path.home, which raises where the system does not know the user, as in some containers.
    keras = Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras")) / "datasets"
    md5 = source.train_md5 | source.test_md5
    batches: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    own = list(files_below(data_dir))
    paths = [*own, *files_below(keras)]
    for path in paths:
        _read_batch(path, path.read_bytes, source, batches)
    for path in paths:
        _read_archive(path, source, batches)
    seen = {path.name: path for path in own if path.name in md5}
    if len(batches) < len(md5) and not seen:
        kind = source.archive.removesuffix("python.tar.gz")
        for path in [path for path in paths if kind in "/".join(path.parts[-2:])][:1]:
            print(f"Not used, as it is not the official file: {path}", file=sys.stderr)
        _read_archive(download.fetch(data_dir, *source[:3], mirror), source, batches)
    for name, expected in md5.items():
        if name not in batches:
            found = "another file of that name" if name in seen else "none beside other batches"
            raise DataError(
                f"{seen.get(name, data_dir)}: expected {name} of MD5 {expected}, found {found}; "
                f"unpack {download.OFFICIAL}{source.archive} again"
            )
    return tuple(
        np.concatenate(parts)
        for names in (source.train_md5, source.test_md5)
        for parts in zip(*(batches[name] for name in names), strict=True)
    )


def files_below(folder: Path, depth: int = 8) -> Iterator[Path]:
    """Yield a file, or the files in a folder and its folders; no hidden ones, no pipes."""
    # Not Path.is_file, which raises where a folder may not be read.
    if os.path.isfile(folder):
        yield folder
        return
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return
    yield from filter(os.path.isfile, paths)
    for path in paths if depth else ():
        if os.path.isdir(path):
            yield from files_below(path, depth - 1)


def _read_archive(path: Path, source: Source, batches: dict) -> None:
    """Add the batches that an archive has and ``batches`` lacks."""
    if len(batches) == len(source.train_md5 | source.test_md5):
        return
    try:
        # Only the official bytes are decompressed: there is no bomb among them.
        official = path.stat().st_size == source.archive_bytes and (
            file_sha256(path) == source.archive_sha256
        )
        if not official and path.suffix != ".tar":
            return
        with tarfile.open(path, "r:gz" if official else "r:") as archive:
            for member in filter(tarfile.TarInfo.isreg, archive):
                content = archive.extractfile(member)
                _read_batch(path / member.name, content.read, source, batches)
    except (OSError, tarfile.TarError):
        return  # of what it lacks, ``load`` tells


def _read_batch(path: Path, read: Callable[[], bytes], source: Source, batches: dict) -> None:
    """Add an official batch that ``batches`` lacks."""
    md5 = (source.train_md5 | source.test_md5).get(path.name)
    if md5 and path.name not in batches:
        try:
            data = read()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}; copy it again") from error
        if hashlib.md5(data, usedforsecurity=False).hexdigest() == md5:
            batches[path.name] = _unpickle(path, data, source)


class _BatchUnpickler(pickle.Unpickler):
    """A second lock behind the checksum: builds arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            raise pickle.UnpicklingError(f"the forbidden global {module}.{name}")
        return super().find_class(module, name)


def _unpickle(path: Path, data: bytes, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Give the images uint8 ``[n, 32, 32, 3]`` and the labels int32 ``[n]`` of a batch."""
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: expected arrays and lists, found {error}; delete it") from error
    return to_nhwc(batch[b"data"], "planar"), np.array(batch[source.labels], np.int32)
