"""Keep the weights of a run as float16, if its accuracy in float32 arithmetic stays the same.

``python benchmarks/halve.py RUN DATA`` prints the accuracy before and after on the validation and
the test images, and writes the weights and the record unless one of them moves by more than 0.02
points; ``main.py test`` then measures the run again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness import CODE  # noqa: F401 - finds the package
from machine import processor

SAME = 0.0002


def main(run: Path, data_dir: Path) -> None:
    """Halve the weights of the run in a folder."""
    processor.prepare_tensorflow()
    import numpy as np

    import DataLoader
    from Model import Model
    from runs import record as records
    from runs.weights import save_weights
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
    records.write_record(run, record | save_weights(run, model.network, model.mean, half=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
