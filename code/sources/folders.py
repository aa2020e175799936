"""A data set of one's own: a folder of pictures for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from machine.errors import DataError
from sources.pictures import list_pictures, printable, read_pictures

Part = tuple[np.ndarray, np.ndarray]


def read(data_dir: Path) -> tuple[Part, Part | None, tuple[str, ...], list[str]]:
    """Read ``DIR/CLASS/*.png|jpg``, or ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``.

    Args:
        data_dir: DIR.

    Returns:
        Images uint8 ``[N, 32, 32, 3]`` and labels int32 ``[N]`` of all or of train, the same of
        test or None, the names of the classes in alphabetical order, and one sentence for each
        kind of change to the pictures.

    Raises:
        DataError: fewer than two classes, other classes in test than in train, an empty class, or
            a file that is no sound picture.
    """
    divided = all(os.path.isdir(data_dir / part) for part in ("train", "test"))
    folders = [data_dir / "train", data_dir / "test"] if divided else [data_dir]
    class_names, *others = map(_class_names, folders)
    if odd := set(class_names).symmetric_difference(*others or [class_names]):
        raise DataError(
            f"{data_dir}: expected the same classes in train and test, found {min(odd)} in one of "
            "them; add it to the other"
        )
    parts, notes = [], []
    for folder in folders:
        files = [list_pictures(folder / name) for name in class_names]
        x, _, said = read_pictures([path for paths in files for path in paths])
        y = np.repeat(np.arange(len(files), dtype=np.int32), [len(paths) for paths in files])
        parts.append((x, y))
        notes += [f"{folder.name}: {note}" for note in said]
    names = tuple(map(printable, class_names))
    return parts[0], parts[1] if divided else None, names, notes


def _class_names(folder: Path) -> list[str]:
    """Give the names of the folders in a folder, in alphabetical order."""
    remedy = "name a folder with one folder of pictures for each class with --data-dir"
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}; {remedy}") from error
    files = [name for name in names if not os.path.isdir(folder / name)]
    if files or len(names) < 2:
        found = f"the file {files[0]}" if files else f"{len(names)} of them"
        raise DataError(f"{folder}: expected two or more class folders, found {found}; {remedy}")
    return names
