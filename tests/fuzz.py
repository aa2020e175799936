"""Damaged files for every reader: each is read right, or refused in one line, in bounded memory.

``python tests/fuzz.py --cases 2000`` runs that many cases of each reader and reports the counts.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import tempfile
import tracemalloc
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

from machine import processor

processor.prepare_tensorflow()

import batches
from PIL import Image
from saved import FINISHED
from tiny import encoded

import DataLoader
from machine.errors import UserError
from Network import resnet_v1
from runs import state
from runs.record import RECORD_FILE, read_record
from runs.weights import WEIGHTS_FILE, load_weights, save_weights
from sources import cifar

MEMORY_BYTES_MAX = 64 << 20
ROWS = 4
IMAGES = np.random.default_rng(0).integers(0, 256, (ROWS, 32, 32, 3), np.uint8)


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Damage a file in one of the ways that disks, networks and attackers do."""
    kind = generator.integers(6)
    place = int(generator.integers(len(data)))
    if kind == 0:
        return data[:place]
    if kind == 1:
        changed = bytearray(data)
        for at in generator.integers(len(data), size=generator.integers(1, 9)):
            changed[at] ^= 1 << generator.integers(8)
        return bytes(changed)
    length = int(generator.integers(1, 64))
    if kind == 2:
        return data[:place] + generator.bytes(length) + data[place:]
    if kind == 3:
        return data[:place] + data[place + length :]
    if kind == 4:
        return data[:place] + b"\xff" * length + data[place + length :]
    # The head of a file holds its lengths and types.
    head = bytearray(data)
    head[int(generator.integers(min(len(data), 200)))] = int(generator.integers(256))
    return bytes(head)


def array(values: np.ndarray) -> bytes:
    """A ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def read_batches(path: Path) -> None:
    # The address is refused: without batches there is nothing to read.
    cifar.load(path.parent, batches.SOURCE, mirror="none:")


def read_images(path: Path) -> None:
    for _ in DataLoader.load_testing_images(path).batches(2):
        pass


def readers(folder: Path) -> dict:
    """For each reader: the file to damage, a sound content, and how it is read."""
    extracted, tar, classes = folder / "extracted", folder / "tar", folder / "classes"
    for each in (extracted, tar, classes / "a", classes / "b"):
        each.mkdir(parents=True)
    for name, content in batches.FILES.items():
        (extracted / name).write_bytes(content)
    png, jpeg = (encoded(Image.fromarray(IMAGES[0]), kind) for kind in ("PNG", "JPEG"))
    for name in ("a/1.png", "a/2.jpg", "b/1.png"):
        (classes / name).write_bytes(png if name.endswith("png") else jpeg)
    weights, network = folder / "weights", resnet_v1(depth=8, width=1)
    weights.mkdir()
    record = save_weights(weights, network, np.zeros((32, 32, 3), np.float32))

    def read_weights(path):
        # As if whoever changed the file had changed its checksum in run.json too.
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        load_weights(path.parent, network, {**record, "weights_file_sha256": sha256})

    def read_state(path):
        data = path.read_bytes()
        (path.parent / state.STATE_FILE).write_bytes(data + hashlib.sha256(data).digest())
        state.load(path.parent)

    return {
        "batch": (extracted / "test_batch", batches.FILES["test_batch"], read_batches),
        "tar of batches": (tar / "x.tar", batches.archive(mode="w:"), read_batches),
        "private .npy": (folder / "images.npy", array(IMAGES), read_images),
        "PNG": (folder / "image.png", png, read_images),
        "JPEG": (folder / "image.jpg", jpeg, read_images),
        "labels": (
            folder / "labels.npy",
            array(np.arange(ROWS)),
            lambda path: DataLoader.load_labels(path, ROWS, 10),
        ),
        "class folders": (
            classes / "b" / "1.png",
            png,
            lambda path: DataLoader.load_data(classes, "folder"),
        ),
        "state": (
            folder / "unsealed.npz",
            state.encode({"a": np.zeros(99, np.float32)}, {"run": {}, "progress": {}})[:-32],
            read_state,
        ),
        "run.json": (
            folder / RECORD_FILE,
            json.dumps(FINISHED).encode(),
            lambda path: read_record(path.parent),
        ),
        "weights": (weights / WEIGHTS_FILE, (weights / WEIGHTS_FILE).read_bytes(), read_weights),
    }


def fuzz(cases: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """Run ``cases`` damaged files through each reader.

    Returns:
        For each reader, how many were accepted and how many refused.

    Raises:
        AssertionError: a traceback, more than one line, or too much memory.
    """
    counts = {}
    tracemalloc.start()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, KERAS_HOME=folder),  # its data would be read, too
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for number, (name, (path, sound, read)) in enumerate(readers(Path(folder)).items()):
            generator = np.random.default_rng([seed, number])
            path.write_bytes(sound)
            read(path)
            counts[name] = {"accepted": 0, "refused": 0}
            for case in range(cases):
                path.write_bytes(mutate(sound, generator))
                counts[name][outcome(read, path, f"{name}, seed {seed}, case {case}")] += 1
            path.write_bytes(sound)
    tracemalloc.stop()
    return counts


def outcome(read, path: Path, case: str) -> str:
    """Accepted or refused; anything else is an AssertionError that names the case."""
    tracemalloc.reset_peak()
    try:
        read(path)
        found = "accepted"
    except UserError as error:
        assert "\n" not in str(error), f"{case}: {error}"
        assert error.exit_code > 1, case
        found = "refused"
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    peak = tracemalloc.get_traced_memory()[1]
    assert peak < MEMORY_BYTES_MAX, f"{case}: {peak:,} bytes"
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = fuzz(arguments.cases, arguments.seed)
    for reader, count in result.items():
        print(f"{reader:<16}{count['accepted']:>7} read{count['refused']:>7} refused")
    print(f"{arguments.cases * len(result):,} cases, none with a traceback or too much memory")
