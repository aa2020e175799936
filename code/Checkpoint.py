"""A run on disk: atomic files, a checksummed state, weights that are checked before they load."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import struct
from pathlib import Path

import numpy as np

from Errors import RunError, StorageError

WEIGHTS_FILE = "model.weights.h5"
RECORD_FILE = "run.json"
WEIGHTS_BYTES_MAX = 1 << 30
RECORD_BYTES_MAX = 1 << 20
RECORD_IDENTITY = ("dataset", "data_digests", "model_configs", "training_configs")
RECORD_KEYS = (
    "dataset",
    "class_names",
    "data_digests",
    "model_configs",
    "training_configs",
    "weights_sha256",
)
STATE_FILE = "state.bin"
PREVIOUS_STATE_FILE = "state.previous.bin"
MAGIC = b"resnet-cifar10 state 1\n"
HEADER_BYTES_MAX = 64 << 20
STATE_TYPES = ("float32", "int64", "int32", "uint8")


def prepare_folder(folder: Path, record: dict) -> bool:
    """Make the folder of a new run, writable and empty of another run.

    A finished run of another configuration or other data is moved aside, never deleted.

    Args:
        folder: the run's folder.
        record: what run.json will say of the configuration and the data.

    Returns:
        False if the folder holds this very run, finished; else True.

    Raises:
        StorageError: the folder cannot be made or written.
        RunError: a damaged run.json.
    """
    if (folder / RECORD_FILE).exists():
        old = read_record(folder)
        wanted = json.loads(json.dumps(record))
        if all(old.get(key) == wanted[key] for key in RECORD_IDENTITY):
            return False
        number = 1
        while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
            number += 1
        folder.rename(aside)
        print(f"the finished run that was in {folder} is now in {aside}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {folder}: {error.strerror}; name another --save-dir"
        ) from error
    return True


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
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; nothing was changed there: free some "
            "space or choose another folder with --save-dir"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_state(folder: Path, arrays: dict[str, np.ndarray], record: dict) -> None:
    """Save everything that a run needs to go on; the state before it is kept beside it.

    The file is MAGIC, the length of the header (8 bytes, little-endian), the header (JSON: the
    record, and name, type and shape of each array), the arrays' bytes in that order, and the
    SHA-256 of all before.

    Args:
        folder: the run's folder.
        arrays: by name; types of STATE_TYPES.
        record: JSON-serializable.

    Raises:
        StorageError: the state cannot be written; the last one is intact.
    """
    header = {
        "record": record,
        "arrays": [[name, array.dtype.name, array.shape] for name, array in arrays.items()],
    }
    text = json.dumps(header).encode()
    parts = [MAGIC, struct.pack("<Q", len(text)), text]
    parts += [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    body = b"".join(parts)
    path = folder / STATE_FILE
    with writing(path) as file:
        file.write(body)
        file.write(hashlib.sha256(body).digest())
        if path.exists():
            _keep_previous(path, folder / PREVIOUS_STATE_FILE)


def _keep_previous(path: Path, previous: Path) -> None:
    """Give the newest state a second name, in one step."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    os.link(path, link)
    os.replace(link, previous)


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read what ``write_state`` wrote.

    Returns:
        The arrays by name, and the record.

    Raises:
        RunError: the file is damaged: truncated, changed, or not a state.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    start = len(MAGIC) + 8
    if len(data) < start + 32 or not data.startswith(MAGIC):
        raise RunError(f"{path}: expected a run's state, found {len(data)} other bytes")
    body, checksum = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != checksum:
        raise RunError(f"{path}: damaged, its SHA-256 does not fit its {len(data)} bytes")
    (length,) = struct.unpack("<Q", body[len(MAGIC) : start])
    header = json.loads(body[start : start + length])
    arrays, offset = {}, start + length
    for name, kind, shape in header["arrays"]:
        count = math.prod(shape)
        arrays[name] = np.frombuffer(body, kind, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    return arrays, header["record"]


def weights_digest(network, mean: np.ndarray) -> str:
    """SHA-256 over the mean image and every weight of the network, in order: 64 hex digits."""
    sha256 = hashlib.sha256(np.ascontiguousarray(mean).tobytes())
    for array in network.get_weights():
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def save_weights(folder: Path, network, mean: np.ndarray) -> None:
    """Save the network's weights as Keras does, and the mean image beside them in the same file.

    Args:
        folder: the run's folder.
        network: ``keras.Model``.
        mean: float32 ``[H, W, C]``.

    Raises:
        StorageError: the file cannot be written; the one before it is intact.
    """
    import h5py

    path = folder / WEIGHTS_FILE
    with writing(path) as file:
        # Keras wants a name that ends in .weights.h5.
        temporary = Path(file.name).with_suffix(".weights.h5")
        try:
            network.save_weights(temporary)
            with h5py.File(temporary, "a") as weights:
                weights.create_dataset("pixel_mean", data=mean)
            file.write(temporary.read_bytes())
        finally:
            temporary.unlink(missing_ok=True)


def load_weights(folder: Path, network) -> np.ndarray:
    """Load what ``save_weights`` wrote into ``network``; nothing is read before all fits.

    Args:
        folder: the run's folder.
        network: ``keras.Model`` of the architecture that was saved.

    Returns:
        The mean image, float32 ``[H, W, C]``.

    Raises:
        RunError: the file is missing, damaged, or holds another architecture.
    """
    import h5py

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise RunError(f"{path}: expected a trained model, found none; run python main.py train")
    if path.stat().st_size > WEIGHTS_BYTES_MAX:
        raise RunError(f"{path}: expected at most {WEIGHTS_BYTES_MAX:,} bytes, found more")
    expected = {"pixel_mean": network.input_shape[1:], **_weight_shapes(network)}
    try:
        with h5py.File(path, "r") as file:
            found = _stored_shapes(file)
            if found != expected:
                raise RunError(_describe_mismatch(path, network, expected, found))
            arrays = {name: file[name][()].astype(np.float32) for name in expected}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, RunError):
            raise
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

    shapes = {}

    def visit(name, link):
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{name} is a link to elsewhere")
        item = file[name]
        if isinstance(item, h5py.Dataset):
            if item.dtype != np.float32 or item.external or item.is_virtual:
                raise ValueError(f"{name} is not a plain float32 array")
            shapes[name] = item.shape

    file.visititems_links(visit)
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
    write_bytes(folder / RECORD_FILE, (json.dumps(record, indent=2) + "\n").encode())


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
    missing = [key for key in RECORD_KEYS if not isinstance(record, dict) or key not in record]
    if missing:
        raise RunError(f"{path}: damaged: no {missing[0]}")
    return record
