"""The weights of a finished run as Keras saves them, and the mean image beside them."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np

from machine import files
from machine.errors import RunError

WEIGHTS_FILE = "model.weights.h5"
MEAN_FILE = "pixel_mean.npy"
_BYTES_BESIDE_WEIGHTS = 4 << 20  # names and tables


def weights_digest(network, mean: np.ndarray) -> str:
    """SHA-256 over the mean image and every weight of the network, in order: 64 hex digits."""
    sha256 = hashlib.sha256(mean.tobytes())
    for array in network.get_weights():
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def save_weights(folder: Path, network, mean: np.ndarray, half: bool = False) -> dict[str, str]:
    """Save ``model.weights.h5`` and ``pixel_mean.npy``.

    Args:
        folder: the run's folder.
        network: ``keras.Model``.
        mean: float32 ``[H, W, C]``.
        half: round the network's weights to float16 first, and keep them as such.

    Returns:
        What run.json says of them, keys of ``runs.record.KEYS``.

    Raises:
        StorageError: a file cannot be written; the one before it is intact.
    """
    weights, image = _MemoryFile(), io.BytesIO()
    if half:
        network.set_weights([array.astype(np.float16) for array in network.get_weights()])
    network.save_weights(weights)
    if half:
        weights = _as_float16(weights)
    np.save(image, mean)
    files.write_bytes(folder / WEIGHTS_FILE, weights.getvalue())
    files.write_bytes(folder / MEAN_FILE, image.getvalue())
    return {
        "weights_sha256": weights_digest(network, mean),
        "weights_file_sha256": hashlib.sha256(weights.getvalue()).hexdigest(),
        "mean_file_sha256": hashlib.sha256(image.getvalue()).hexdigest(),
    }


def require_weights(folder: Path, parameters: int) -> None:
    """Raise ``RunError`` unless the weights' file has about the size of so many parameters."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise RunError(f"{path}: expected a trained model, found none; run python main.py train")
    size, least = path.stat().st_size, 2 * parameters  # as float16
    most = 4 * least + _BYTES_BESIDE_WEIGHTS
    if not least <= size <= most:
        raise RunError(
            f"{path}: expected {least:,} to {most:,} bytes for {parameters:,} parameters, "
            f"found {size:,}"
        )


def load_weights(folder: Path, network, record: dict) -> np.ndarray:
    """Load what ``save_weights`` wrote into ``network``.

    Args:
        folder: the run's folder.
        network: ``keras.Model`` of the architecture that was saved.
        record: the keys that ``save_weights`` gave.

    Returns:
        The mean image, float32 ``[H, W, C]``.

    Raises:
        RunError: a file is missing, damaged, or holds another architecture.
    """
    require_weights(folder, network.count_params())
    # HDF5's reader is not made for damaged files: nothing is parsed before its checksum is right.
    weights = _read(folder / WEIGHTS_FILE, record["weights_file_sha256"])
    image = _read(folder / MEAN_FILE, record["mean_file_sha256"])
    try:
        mean = np.load(image, allow_pickle=False)
        if mean.shape != network.input_shape[1:] or mean.dtype != np.float32:
            raise ValueError(f"{MEAN_FILE} is {mean.dtype} {mean.shape}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of what does not fit; the digest says it
            network.load_weights(weights)
    except Exception as error:  # h5py makes many kinds of a hostile file, even SystemError
        raise RunError(
            f"{folder}: expected the weights of {network.name} "
            f"({network.count_params():,} parameters), found others, or none: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    if weights_digest(network, mean) != record["weights_sha256"]:
        raise RunError(f"{folder}: expected the weights that run.json describes, found others")
    return mean


class _MemoryFile(io.BytesIO):
    """A file in memory with a name that Keras takes: on a full disk HDF5 ends the process."""

    def __str__(self):
        return WEIGHTS_FILE


def _as_float16(weights: io.BytesIO) -> _MemoryFile:
    import h5py

    halved = _MemoryFile()
    with h5py.File(weights, "r") as source, h5py.File(halved, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                target[name] = item[()].astype(np.float16)
            else:
                target.require_group(name).attrs.update(item.attrs)

        source.visititems(copy)
    return halved


def _read(path: Path, sha256: str) -> io.BytesIO:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RunError(f"{path}: damaged, or not the one that run.json describes")
    return _MemoryFile(data)
