"""A data set of one's own: a folder of pictures for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from machine.errors import DataError
from sources.pictures import list_pictures, read_pictures

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
        DataError: fewer than two classes, names that differ only in case, other classes in test
            than in train, an empty class, or a file that is no sound picture.
    """
    divided = all(os.path.isdir(data_dir / part) for part in ("train", "test"))
    parts = [data_dir / "train", data_dir / "test"] if divided else [data_dir]
    class_names = [_class_names(part) for part in parts]
    if class_names[0] != class_names[-1]:
        odd = sorted(set(class_names[0]) ^ set(class_names[1]))[0]
        raise DataError(
            f"{data_dir}: expected the same classes in train and test, found {odd} in one of them; "
            "add it to the other"
        )
    read_parts, notes = [], []
    for part in parts:
        files = [list_pictures(part / name) for name in class_names[0]]
        x, _, said = read_pictures([path for paths in files for path in paths])
        y = np.repeat(np.arange(len(files), dtype=np.int32), [len(paths) for paths in files])
        read_parts.append((x, y))
        notes += [f"{part.name}: {note}" for note in said]
    return read_parts[0], read_parts[1] if divided else None, tuple(class_names[0]), notes


def _class_names(folder: Path) -> list[str]:
    try:
        entries = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder}: expected a folder for each class, found {error.strerror}; name it with "
            "--data-dir"
        ) from error
    files = [name for name in entries if not os.path.isdir(folder / name)]
    if files or len(entries) < 2:
        found = f"the file {files[0]}" if files else f"{len(entries)}"
        raise DataError(
            f"{folder}: expected a folder for each of two or more classes, found {found}; "
            "see --data-dir"
        )
    seen: dict[str, str] = {}
    for name in entries:
        if other := seen.get(name.casefold()):
            raise DataError(
                f"{folder}: expected class names that differ in more than case, found {other} and "
                f"{name}; rename one"
            )
        seen[name.casefold()] = name
    return entries
