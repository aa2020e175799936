"""Keep the weights of a run as float16, if its accuracy in float32 arithmetic stays the same.

``python benchmarks/halve.py RUN DATA`` prints the accuracy before and after on the validation and
the test images, and writes the weights and the record unless one of them moves by more than 0.02
points; ``main.py test`` then measures the run again.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from harness import CODE  # noqa: F401 - finds the package
from machine import files, processor
from runs.weights import WEIGHTS_FILE, save_weights

SAME = 0.0002


def as_float16(weights: bytes) -> bytes:
    """The file of weights with each array as float16; Keras reads it into float32 variables."""
    halved = io.BytesIO()
    with h5py.File(io.BytesIO(weights), "r") as source, h5py.File(halved, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                target[name] = item[()].astype(np.float16)
            else:
                target.require_group(name).attrs.update(item.attrs)

        source.visititems(copy)
    return halved.getvalue()


def main(run: Path, data_dir: Path) -> None:
    """Halve the weights of the run in a folder."""
    processor.prepare_tensorflow()
    import DataLoader
    from Model import Model
    from runs import record as records
    from verbs.test import images_of

    record, model = records.read_record(run), Model.load(run)
    data = DataLoader.load_data(data_dir, record["dataset"])
    images = {split: images_of(run, record, data, split) for split in ("valid", "test")}

    def measure() -> list[float]:
        return [model.evaluate(*images[split]).metrics["accuracy"] for split in images]

    before, weights = measure(), model.network.get_weights()
    model.network.set_weights([array.astype(np.float16) for array in weights])
    after = measure()
    for split, one, other in zip(images, before, after, strict=True):
        print(f"{split} accuracy: float32 {100 * one:.2f} %, float16 {100 * other:.2f} %")
    if max(abs(a - b) for a, b in zip(before, after, strict=True)) > SAME:
        sys.exit("error: the accuracy is another one; nothing was written")
    with tempfile.TemporaryDirectory() as folder:
        record |= save_weights(Path(folder), model.network, model.mean)
        halved = as_float16(Path(folder, WEIGHTS_FILE).read_bytes())
    files.write_bytes(run / WEIGHTS_FILE, halved)
    record["weights_file_sha256"] = hashlib.sha256(halved).hexdigest()
    records.write_record(run, record)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
