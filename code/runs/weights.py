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


def weights_digest(network, mean: np.ndarray) -> str:
    """SHA-256 over the mean image and every weight of the network, in order: 64 hex digits."""
    sha256 = hashlib.sha256(mean.tobytes())
    for array in network.get_weights():
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def save_weights(folder: Path, network, mean: np.ndarray) -> dict[str, str]:
    """Save ``model.weights.h5`` and ``pixel_mean.npy``.

    Args:
        folder: the run's folder.
        network: ``keras.Model``.
        mean: float32 ``[H, W, C]``.

    Returns:
        What run.json says of them, keys of ``runs.record.KEYS``.

    Raises:
        StorageError: a file cannot be written; the one before it is intact.
    """
    weights, image = _MemoryFile(), io.BytesIO()
    network.save_weights(weights)
    np.save(image, mean)
    files.write_bytes(folder / WEIGHTS_FILE, weights.getvalue())
    files.write_bytes(folder / MEAN_FILE, image.getvalue())
    return {
        "weights_sha256": weights_digest(network, mean),
        "weights_file_sha256": hashlib.sha256(weights.getvalue()).hexdigest(),
        "mean_file_sha256": hashlib.sha256(image.getvalue()).hexdigest(),
    }


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


def _read(path: Path, sha256: str) -> io.BytesIO:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path}: expected what a trained run has, found none that can be read "
            f"({error.strerror}); run python main.py train, or name another run"
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RunError(f"{path}: damaged, or not the one that run.json describes")
    return _MemoryFile(data)
