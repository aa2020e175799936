"""A run on disk: atomic files, a checksummed state, weights that are checked before they load."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import os
import re
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np

from machine import files
from machine.errors import RunError, StorageError

WEIGHTS_FILE = "model.weights.h5"
RECORD_FILE = "run.json"
STATE_FILE = "state.bin"
PREVIOUS_STATE_FILE = "state.previous.bin"
DAMAGED_STATE_FILE = "state.damaged.bin"
LOCK_FILE = ".lock"
LEFT_BY_A_KILL = re.compile(r"\.[\w.]+\.(\d+)\.tmp")

WEIGHTS_GROUPS_MAX = 10_000
WEIGHTS_BYTES_MORE = 4 << 20  # names and tables, beside the weights themselves
RECORD_BYTES_MAX = 1 << 20
STATE_BYTES_MAX = 4 << 30
SPACE_FOR_PICTURES = 16 << 20
MAGIC = b"resnet-cifar10 state 1\n"
STATE_TYPES = ("float32", "int64", "int32", "uint8")

RECORD_IDENTITY = (
    "dataset",
    "data_digests",
    "network",
    "model_configs",
    "training_configs",
    "versions",
)
"""What must be equal for a run to be the same one; a difference is named and refused."""

FINISHED_IDENTITY = (*RECORD_IDENTITY[:-1], "precision")
"""What must be equal for a finished run to be the one that is asked for."""

RECORD_MACHINE = ("precision", "hardware")
"""What may change the last bits of a result; a difference is warned of."""

RECORD_TYPES = {
    "dataset": str,
    "class_names": list,
    "data_digests.train": str,
    "data_digests.test": str,
    "network": str,
    "model_configs": dict,
    "training_configs.epochs": int,
    "versions": dict,
    "weights_sha256": str,
    "weights_file_sha256": str,
}
"""What run.json must have to be read."""


class Run:
    """The folder of one training run, held by this process alone while the context lasts.

    Args:
        folder: made if it is missing.
        record: what the run is: keys of RECORD_IDENTITY and of RECORD_MACHINE at least.

    Attributes:
        machine_changes: each change of RECORD_MACHINE that the run went on with, in their order.

    Raises:
        RunError: another process trains into this folder.
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, record: dict):
        self.folder = folder
        self._record = json.loads(json.dumps(record))
        self._state = None
        self._lock = None
        self.machine_changes: list[str] = []

    def __enter__(self):
        self._take_lock()
        with files.storing(self.folder):
            for path in self.folder.glob(".*.tmp"):
                if (left := LEFT_BY_A_KILL.fullmatch(path.name)) and not _is_alive(int(left[1])):
                    path.unlink()
        return self

    def __exit__(self, *_):
        self._let_go_of_lock()

    def begin(self, fresh: bool) -> bool:
        """Decide what to do in this folder; a run that must give way is moved aside, not deleted.

        A finished run is replaced by one of another configuration; an unfinished one is not,
        unless ``fresh`` says so.

        Args:
            fresh: start over, whatever the folder holds.

        Returns:
            False if this very run is finished here, else True.

        Raises:
            RunError: an unfinished run of another configuration, data, network or version.
        """
        if fresh:
            if any(path.name != LOCK_FILE for path in self.folder.iterdir()):
                self._move_aside("--fresh")
            return True
        finished = self._finished_record()
        if finished is not None:
            if differences := _differences(finished, self._record, FINISHED_IDENTITY):
                self._move_aside("; ".join(differences))
                return True
            if _epochs(finished) == _epochs(self._record):
                return False
        # A finished run is judged without its state: that may be damaged, or gone.
        self._state = self._read_state()
        if self._state is None:
            if finished is not None:
                self._move_aside("more epochs, but no state to go on from")
            elif (self.folder / RECORD_FILE).exists():
                self._move_aside("its weights are not those of its run.json")
            return True
        unfinished = self._state[1]["run"]
        if differences := _differences(unfinished, self._record, RECORD_IDENTITY):
            raise RunError(
                f"{self.folder}: expected an unfinished run of the same kind, found other values: "
                f"{'; '.join(differences)}; use the old values, --fresh, or another --save-dir"
            )
        changed = _differences(unfinished, self._record, RECORD_MACHINE)
        self.machine_changes = unfinished.get("machine_changes", []) + changed
        if changed:
            warnings.warn(f"bits may differ: {'; '.join(changed)}", stacklevel=2)
        return True

    def require_space(self, size: int) -> None:
        """Find out before the training if the disk has no room for what it will save.

        Args:
            size: bytes of one state.

        Raises:
            StorageError: less is free than three states (the newest, the one before it, the one
                being written) and SPACE_FOR_PICTURES.
        """
        with files.storing(self.folder):
            free = shutil.disk_usage(self.folder).free
        if free < 3 * size + SPACE_FOR_PICTURES:
            raise StorageError(
                f"{self.folder}: expected {3 * size + SPACE_FOR_PICTURES:,} bytes of free space, "
                f"found {free:,}; free some, or name another folder with --save-dir"
            )

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict) -> None:
        """Save all that the run needs to go on; the state before it is kept beside it.

        Args:
            arrays: by name; float32, int64, int32 or uint8.
            progress: JSON-serializable.

        Raises:
            StorageError: the state cannot be written; the last one is intact.
        """
        newest = self.folder / STATE_FILE
        run = {**self._record, "machine_changes": self.machine_changes}
        with files.writing(newest) as file:
            file.write(encode_state(arrays, {"run": run, "progress": progress}))
            file.flush()
            os.fsync(file.fileno())
            if newest.exists():
                os.replace(newest, self.folder / PREVIOUS_STATE_FILE)

    def load_state(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """The arrays and the progress of the last state, or None if there is none.

        A damaged state is put aside, with a warning, and the one before it is taken.

        Raises:
            RunError: the one before it is damaged too.
        """
        state, self._state = self._state or self._read_state(), None
        return None if state is None else (state[0], state[1]["progress"])

    def _take_lock(self):
        path = self.folder / LOCK_FILE
        with files.storing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # The system lets go of the lock when its owner dies, however it dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._let_go_of_lock()
            raise RunError(
                f"{self.folder}: expected a free run folder, found another process training into "
                "it; wait for it, or name another folder with --save-dir"
            ) from error
        except OSError as error:
            self._let_go_of_lock()
            raise StorageError(
                f"{path}: expected a file system with locks, found {error.strerror}; name a folder "
                "on another one with --save-dir"
            ) from error

    def _let_go_of_lock(self):
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _finished_record(self):
        """What run.json says, if the weights that it describes are there."""
        if not (self.folder / RECORD_FILE).exists():
            return None
        record, weights = read_record(self.folder), self.folder / WEIGHTS_FILE
        whole = weights.exists() and files.file_sha256(weights) == record["weights_file_sha256"]
        return record if whole else None

    def _read_state(self):
        newest, previous = self.folder / STATE_FILE, self.folder / PREVIOUS_STATE_FILE
        if not newest.exists():
            # A kill between two renames leaves the last state under this name.
            return read_state(previous) if previous.exists() else None
        try:
            return read_state(newest)
        except RunError as error:
            if not previous.exists():
                raise
            state = read_state(previous)
            warnings.warn(f"{error}; going on from {previous.name}", stacklevel=3)
            with files.storing(newest):
                os.replace(newest, self.folder / DAMAGED_STATE_FILE)
            return state

    def _move_aside(self, why):
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}-{number}")).exists():
            number += 1
        with files.storing(aside):
            self.folder.rename(aside)
        self._let_go_of_lock()
        self._take_lock()
        print(f"the run that was in {self.folder} is now in {aside} ({why})", flush=True)


def require_same(chief: dict, record: dict) -> None:
    """Raise ``RunError`` unless a worker would train with its chief, as the records say.

    Args:
        chief: keys of RECORD_IDENTITY, "precision" and "flags", as far as they are known.
        record: the worker's.
    """
    identity = (*RECORD_IDENTITY, "precision", "flags")
    if differences := _differences(chief, record, identity, strict=True):
        raise RunError(
            f"expected the run of the chief, found other values: {'; '.join(differences)}; give "
            "every worker the same command, data, packages and --precision"
        )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _epochs(record: dict) -> int:
    return record["training_configs"]["epochs"]


def _differences(old: dict, new: dict, keys: tuple[str, ...], strict: bool = False) -> list[str]:
    """Every value under ``keys`` that differs, as "name: was A, is B".

    Without ``strict``, only those that a run may not be continued with. Why a precision was taken
    is never a difference.
    """
    found = []
    for key in keys:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            free = {"reason"} if strict else {"reason", *_may_change(key, before, after)}
            found += _differences(before, after, tuple(sorted({*before, *after} - free)), strict)
        elif before != after:
            found.append(f"{key}: was {before}, is {after}")
    return found


def _may_change(key: str, old: dict, new: dict) -> set[str]:
    """Keys that a run may be continued with other values of.

    More epochs at a constant rate: no step's rate depends on how many are still to come. Any
    other schedule would have been another one from its first step on. The precision is compared
    with the machine: it changes bits, not the recipe.
    """
    if key == "model_configs":
        return {"precision"}
    constant = old.get("schedule") == new.get("schedule") == "constant"
    if key == "training_configs" and constant and new["epochs"] >= old["epochs"]:
        return {"epochs"}
    return set()


def encode_state(arrays: dict[str, np.ndarray], record: dict) -> bytes:
    """Arrays and a record as the bytes of a state file.

    They are MAGIC, the length of the header (8 bytes, little-endian), the header (JSON: the
    record, and name, type and shape of each array), the arrays' bytes in that order, and the
    SHA-256 of all before.
    """
    table = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
    header = json.dumps({"record": record, "arrays": table}).encode()
    parts = [MAGIC, struct.pack("<Q", len(header)), header]
    parts += [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def decode_state(data: bytes) -> tuple[dict[str, np.ndarray], dict]:
    """What ``encode_state`` was given: the arrays by name, and the record.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: truncated, changed, or not a state.
    """
    start = len(MAGIC) + 8
    if len(data) < start + 32 or not data.startswith(MAGIC):
        raise ValueError(f"{len(data)} bytes that are not a run's state")
    body, checksum = memoryview(data)[:-32], data[-32:]
    if hashlib.sha256(body).digest() != checksum:
        raise ValueError(f"its SHA-256 does not fit its {len(data)} bytes")
    (length,) = struct.unpack("<Q", body[len(MAGIC) : start])
    header = json.loads(bytes(body[start : start + length]))
    arrays, offset = {}, start + length
    for name, kind, shape in header["arrays"]:
        if kind not in STATE_TYPES:
            raise ValueError(f"{name} has the type {kind}")
        array = np.frombuffer(body, kind, math.prod(shape), offset).reshape(shape)
        arrays[name] = array
        offset += array.nbytes
    return arrays, header["record"]


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read a state file: the arrays by name, and the record.

    Raises:
        RunError: the file is unreadable, truncated, changed, or not a state.
    """
    try:
        if path.stat().st_size > STATE_BYTES_MAX:
            raise ValueError(f"more than {STATE_BYTES_MAX:,} bytes")
        return decode_state(path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path}: damaged: {' '.join(str(error).split())}; if no state is left, start over "
            "with --fresh"
        ) from error


def weights_digest(network, mean: np.ndarray) -> str:
    """SHA-256 over the mean image and every weight of the network, in order: 64 hex digits."""
    sha256 = hashlib.sha256(np.ascontiguousarray(mean).tobytes())
    for array in network.get_weights():
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def save_weights(folder: Path, network, mean: np.ndarray) -> str:
    """Save the network's weights as Keras does, and the mean image beside them in the same file.

    Args:
        folder: the run's folder.
        network: ``keras.Model``.
        mean: float32 ``[H, W, C]``.

    Returns:
        The SHA-256 of the file, 64 hex digits.

    Raises:
        StorageError: the file cannot be written; the one before it is intact.
    """
    import h5py

    # HDF5 writes to memory: it takes a full disk badly.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in zip(_weight_shapes(network), network.get_weights(), strict=True):
            file.create_dataset(name, data=array)
        file.create_dataset("pixel_mean", data=mean)
    files.write_bytes(folder / WEIGHTS_FILE, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def require_weights(folder: Path, parameters: int) -> None:
    """Raise ``RunError`` unless the folder has weights of about the size of so many parameters."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise RunError(f"{path}: expected a trained model, found none; run python main.py train")
    size, least = path.stat().st_size, 4 * parameters
    if not least <= size <= 2 * least + WEIGHTS_BYTES_MORE:
        raise RunError(
            f"{path}: expected {least:,} to {2 * least + WEIGHTS_BYTES_MORE:,} bytes for "
            f"{parameters:,} parameters, found {size:,}"
        )


def load_weights(folder: Path, network, sha256: str) -> np.ndarray:
    """Load what ``save_weights`` wrote into ``network``; nothing is read before all fits.

    Args:
        folder: the run's folder.
        network: ``keras.Model`` of the architecture that was saved.
        sha256: expected of the file: HDF5's reader is not made for damaged files.

    Returns:
        The mean image, float32 ``[H, W, C]``.

    Raises:
        RunError: the file is missing, damaged, or holds another architecture.
    """
    import h5py

    path = folder / WEIGHTS_FILE
    require_weights(folder, network.count_params())
    expected = {"pixel_mean": network.input_shape[1:], **_weight_shapes(network)}
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RunError(f"{path}: damaged, or not the weights that {RECORD_FILE} describes")
        with h5py.File(io.BytesIO(data), "r") as file:
            found = _stored_shapes(file)
            if found != expected:
                raise RunError(_describe_mismatch(path, network, expected, found))
            arrays = {name: file[name][()].astype(np.float32) for name in expected}
    except RunError:
        raise
    except Exception as error:  # h5py makes many kinds of a damaged file, even SystemError
        raise RunError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    mean = arrays.pop("pixel_mean")
    network.set_weights([arrays[name] for name in _weight_shapes(network)])
    return mean


def _weight_shapes(network) -> dict[str, tuple[int, ...]]:
    """Name in a Keras weights file and shape of each weight, in the network's order."""
    shapes, seen = {}, {}
    for layer in network.layers:
        kind = _snake_case(type(layer).__name__)
        number = seen[kind] = seen.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        for index, weight in enumerate(layer.weights):
            shapes[f"layers/{name}/vars/{index}"] = tuple(weight.shape)
    return shapes


def _snake_case(name: str) -> str:
    """Conv2D to conv2d, BatchNormalization to batch_normalization, as Keras names layers."""
    words = re.sub(r"\W+", "", name)
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", words)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _stored_shapes(file) -> dict[str, tuple[int, ...]]:
    """Shape of each float32 array of an HDF5 file; what points outside the file is refused."""
    import h5py

    shapes, groups = {}, [("", file)]
    for prefix, group in groups:  # which grows meanwhile
        for name in group:
            path = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path} is a link to elsewhere")
            item = group[name]
            if not isinstance(item, h5py.Dataset):
                groups.append((f"{path}/", item))
                continue
            plain = item.dtype == np.float32 and item.chunks is None
            if not plain or item.external or item.is_virtual:
                raise ValueError(f"{path} is not a plain float32 array")
            shapes[path] = item.shape
        if len(groups) > WEIGHTS_GROUPS_MAX:
            raise ValueError("more groups than a network has layers")
    return shapes


def _describe_mismatch(path, network, expected, found) -> str:
    def describe(shapes):
        kernels = [shape for shape in shapes.values() if len(shape) == 4]
        count = sum(math.prod(shape) for name, shape in shapes.items() if name != "pixel_mean")
        width = kernels[0][-1] if kernels else 0
        return f"{len(kernels)} convolutions, first width {width}, {count:,} parameters"

    odd = next(iter(sorted(set(expected.items()) ^ set(found.items()))))
    return (
        f"{path}: expected the weights of {network.name} ({describe(expected)}), found "
        f"{describe(found)}; they differ first at {odd[0]}"
    )


def write_record(folder: Path, record: dict) -> None:
    """Save run.json, the last file of a finished run."""
    files.write_bytes(folder / RECORD_FILE, (json.dumps(record, indent=2) + "\n").encode())


def read_record(folder: Path) -> dict:
    """Read run.json of a finished run.

    Raises:
        RunError: it is missing or damaged.
    """
    path = folder / RECORD_FILE
    try:
        if path.stat().st_size > RECORD_BYTES_MAX:
            raise RunError(f"{path}: expected at most {RECORD_BYTES_MAX:,} bytes, found more")
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{folder}: expected a finished run, found no {RECORD_FILE}; run python main.py train, "
            "or name a run's folder with --save-dir"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    if not isinstance(record, dict):
        raise RunError(f"{path}: damaged: no record")
    for key, kind in RECORD_TYPES.items():
        value = record
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise RunError(f"{path}: damaged: no {key}")
    if not all(isinstance(name, str) for name in record["class_names"]):
        raise RunError(f"{path}: damaged: class_names that are no names")
    return record
