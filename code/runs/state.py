"""The state of an unfinished run: all that it needs to go on, in a file that NumPy opens."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np

from machine import files
from machine.errors import RunError

STATE_FILE = "state.npz"
PREVIOUS_STATE_FILE = "state.previous.npz"
DAMAGED_STATE_FILE = "state.damaged.npz"


def encode(arrays: dict[str, np.ndarray], record: dict) -> bytes:
    """Arrays and a JSON-serializable record as an .npz, and the SHA-256 of it."""
    file = io.BytesIO()
    np.savez(file, record=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
    # A reader of .npz finds its table from behind, and passes over the checksum.
    return b"".join((file.getbuffer(), hashlib.sha256(file.getbuffer()).digest()))


def decode(data: bytes) -> tuple[dict[str, np.ndarray], dict]:
    """What ``encode`` was given: the arrays by name, and the record.

    Raises:
        ValueError: truncated, changed, or not a state.
    """
    body, checksum = memoryview(data)[:-32], data[-32:]
    if hashlib.sha256(body).digest() != checksum:
        raise ValueError(f"its SHA-256 does not fit its {len(data):,} bytes")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as loaded:
            arrays = dict(loaded)
        return arrays, json.loads(arrays.pop("record").tobytes())
    except Exception as error:  # zipfile and NumPy raise many kinds for what is not theirs
        raise ValueError(" ".join(f"not a state: {error}".split())) from error


def save(folder: Path, arrays: dict[str, np.ndarray], record: dict) -> None:
    """Save a state beside the one before it, which a ``StorageError`` leaves intact."""
    newest = folder / STATE_FILE
    with files.writing(newest) as file:
        file.write(encode(arrays, record))
        file.flush()
        os.fsync(file.fileno())  # before the last one gives way
        if newest.exists():
            os.replace(newest, folder / PREVIOUS_STATE_FILE)


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """The arrays and the record of the last state, or None if there is none.

    A damaged state is put aside, with a warning, and the one before it is taken.

    Raises:
        RunError: there is no other, or that is damaged too.
    """
    newest, previous = folder / STATE_FILE, folder / PREVIOUS_STATE_FILE
    if not newest.exists():
        # A kill between two renames leaves the last state under this name.
        return _read(previous) if previous.exists() else None
    try:
        return _read(newest)
    except RunError as error:
        if not previous.exists():
            raise
        state = _read(previous)
        warnings.warn(f"{error}; going on from {previous.name}", stacklevel=2)
        with files.storing(newest):
            os.replace(newest, folder / DAMAGED_STATE_FILE)
        return state


def peek(folder: Path) -> dict | None:
    """The record of the last state that can be read, or None.

    Unlike ``load`` it moves nothing: another process may be saving there.
    """
    for name in (STATE_FILE, PREVIOUS_STATE_FILE):
        with contextlib.suppress(OSError, ValueError, MemoryError):
            return decode((folder / name).read_bytes())[1]
    return None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError, MemoryError) as error:
        raise RunError(
            f"{path}: damaged: {error}; if no state is left, start over with --fresh"
        ) from error
