"""Measure a finished run on labelled images."""

from __future__ import annotations

from pathlib import Path

import Configure
import DataLoader
from machine import files, processor
from machine.errors import RunError, UserError
from runs import metrics, plots
from runs import record as records
from verbs.train import training_data


def test(
    *,
    save_dir: Path,
    data_dir: Path,
    mirror: str | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    split: str = "test",
    layout: str = "auto",
    precision: str = "float32",
    test_time_flip: bool | None = None,
    test_time_shift: bool | None = None,
    seen_test_images: bool = False,
) -> None:
    """Measure a finished run on the public test images of its data set, or on other images.

    The results are printed, and written into the run's folder: see ``metrics.metrics_file``.

    Args:
        save_dir: folder of the run.
        data_dir: folder of the data.
        mirror: address to download CIFAR-10 or CIFAR-100 from.
        images: labelled images of one's own, see ``DataLoader.load_testing_images``; the results
            are only printed.
        labels: their labels, integers ``[N]`` in a .npy file.
        split: of ``Configure.SPLITS``; the validation images are for choosing, and on those that
            it was trained on a run is better.
        layout: of the images, see ``DataLoader.load_testing_images``.
        precision: "float32" or "bfloat16".
        test_time_flip: see Configure.py; None for what the run was configured to.
        test_time_shift: likewise.
        seen_test_images: take a run that was trained on the test images, too.

    Raises:
        UserError: see ``machine.errors``.
    """
    record = records.read_record(save_dir)
    if split != "valid":
        records.require_unseen(save_dir, record, seen_test_images)
    name, class_names = record["dataset"], record["class_names"]
    if (images is None) != (labels is None):
        raise UserError("expected --input and --labels together, found one of them; give both")
    if images is not None and split != "test":
        raise UserError(f"split: expected no --input with it, found {images}; give one of them")
    if images is None:
        data = DataLoader.load_data(data_dir, name, mirror)
        x, y = images_of(save_dir, record, data, split)
        if split != "test":
            name += f", the {split} images of the run"
    else:
        source = DataLoader.load_testing_images(images, layout)
        x, name = source.read(0, source.count), f"{source.source} ({source.reason})"
        for note in source.notes:
            print(note)
        y = DataLoader.load_labels(labels, len(x), len(class_names))
    processor.prepare_tensorflow()
    from Model import Model

    model = Model.load(save_dir, precision, test_time_flip, test_time_shift)
    measured, probabilities = model.evaluate(x, y)
    name += records.leak_note(record)
    views = {key: model.configs[key] for key in Configure.TEST_TIME}
    how = {"dataset": name, "weights_sha256": record["weights_sha256"], "precision": precision}
    measured = {**how, **views, **measured}
    if split == "train" and record["training_configs"]["label_noise"]:
        trained = _training_data(record, data)[1]
        false = trained != y
        if false.any():
            measured["false_labels"] = int(false.sum())
            measured["memorized"] = float((probabilities.argmax(1) == trained)[false].mean())
    print(
        f"{save_dir}: {record['network']} trained on {record['dataset']}, measured in {precision}"
        f"{metrics.describe_views(views)}"
    )
    print("\n".join(metrics.metrics_lines(measured, class_names)))
    if images is not None:
        return
    # After the lines: they are all that comes out of a folder that may only be read.
    path = save_dir / metrics.metrics_file(split, measured, record["model_configs"])
    files.write_json(path, measured)
    print(f"\nmetrics: {path}")
    if path.name != metrics.TEST_FILE:
        return
    title = name + metrics.describe_views(views)
    matrix, mistakes = save_dir / "confusion_matrix.png", save_dir / "mistakes.png"
    shown = {**measured, "dataset": title}
    files.write_bytes(matrix, plots.confusion_matrix_png(shown, class_names))
    files.write_bytes(mistakes, plots.mistakes_png(x, y, probabilities, class_names, title))
    print(f"pictures: {matrix}, {mistakes}")


def images_of(save_dir: Path, record: dict, data: DataLoader.DataSet, split: str) -> tuple:
    """The images and true labels that a run was trained on, validated by, or is tested on.

    Args:
        save_dir: folder of the run.
        record: of the run.
        data: its data set.
        split: of ``Configure.SPLITS``.

    Raises:
        RunError: the data set is another one, or the run had no images to validate.
    """
    part, x, y = "train", data.x_train, data.y_train
    if split == "test":
        part, x, y = "test", data.x_test, data.y_test
    if DataLoader.digest(x, y) != record["data_digests"][part]:
        raise RunError(
            f"{save_dir}: expected the {part} images of the run, found others; name their folder "
            "with --data-dir, or measure others with --input and --labels"
        )
    if split == "test":
        return x, y
    parts = _training_data(record, data, label_noise=0.0)
    x, y = parts[:2] if split == "train" else parts[2:]
    if not len(x):
        raise RunError(
            f"{save_dir}: expected a run with validation images, found none held out; train one "
            "with --valid-size"
        )
    return x, y


def _training_data(record: dict, data: DataLoader.DataSet, **overrides) -> tuple:
    """What ``training_data`` gave the run, or with other values for keys of its configuration."""
    configs = {**record["training_configs"], **overrides}
    leaked = records.trained_on_test(record)
    return training_data(data, record["model_configs"]["seed"], configs, leaked)
