"""Train one configuration into a run's folder, or go on with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import Configure
import DataLoader
from machine import extras, files, processor
from machine.console import Signals
from machine.errors import InterruptedRunError, RunError, UserError
from runs import metrics, plots, weights
from runs import record as records
from runs.folder import FIRST_PICTURES
from runs.tensorboard import TensorBoard


def train(
    *,
    preset: str,
    overrides: dict[str, Any],
    save_dir: Path,
    data_dir: Path,
    mirror: str | None = None,
    config: Path | None = None,
    init_from: Path | None = None,
    fresh: bool = False,
    strategy: str = "auto",
    save_minutes: float = 10.0,
    tensorboard: bool = False,
    include_test: bool = False,
) -> None:
    """Train one configuration, or go on with it, and save the run.

    Args:
        preset: a key of ``Configure.PRESETS``.
        overrides: values by key of ``Configure``, on top of the preset's.
        save_dir: folder of the run.
        data_dir: folder of the data.
        mirror: address to download CIFAR-10 or CIFAR-100 from.
        config: a run.json whose configuration takes the place of the preset's.
        init_from: folder of a finished run to take the weights from.
        fresh: start over; a run that is there is moved aside.
        strategy: one of ``Configure.STRATEGIES``.
        save_minutes: minutes between saves within an epoch.
        tensorboard: write the run's folder ``tensorboard`` as well.
        include_test: train on the test images too, to show what that does; the run says so, and
            no flag asks for it.

    Raises:
        UserError: see ``machine.errors`` for what can go wrong.
    """
    if tensorboard:
        extras.require("tensorboard")
    for name, path in (("config", config), ("init_from", init_from)):
        if path is not None and path.resolve().is_relative_to(save_dir):
            raise UserError(
                f"{name}: expected a run in another folder than {save_dir}, found {path}, which "
                "this run may move aside; name another --save-dir"
            )
    base = None
    if config is not None:
        record = records.read_record(config)
        base = {**record["model_configs"], **record["training_configs"]}
    model_configs, training_configs = Configure.configure(preset, overrides, base)
    for line in Configure.doubts(overrides, training_configs):
        warnings.warn(line, stacklevel=1)
    data = DataLoader.load_data(data_dir, training_configs["dataset"], mirror)
    split = training_data(data, model_configs["seed"], training_configs, include_test)
    # Signals are heard from here on: importing TensorFlow takes seconds, and a scheduler may warn
    # meanwhile.
    with Signals() as signals:
        processor.prepare_tensorflow()
        from machine import cluster
        from Model import Model
        from runs.shared import SharedRun, require_same

        with cluster.joining(strategy) as devices:
            record = describe_run(preset, model_configs, training_configs, data)
            seen = include_test
            if init_from is not None:
                source = records.read_record(init_from)
                record["init_from"] = source["weights_sha256"]
                seen = seen or source.get("seen_test_images")
                _warn_of_its_split(record, source)
            if seen:
                record["seen_test_images"] = True
            require_same(devices, {**record, "flags": {"fresh": fresh}})
            record["hardware"].update(cluster.describe(devices))
            model = Model(model_configs, num_classes=len(data.class_names), strategy=devices)
            model.check_training_data(*split[:2], training_configs)
            record["network"] = model.network.name
            record["parameters"] = model.network.count_params()
            taken = None if init_from is None else _take_weights(model, init_from)
            chief = cluster.is_chief(devices)
            if cluster.any_process(devices, signals.received()):
                raise InterruptedRunError("stopped before the training; nothing was changed")
            with SharedRun(devices, save_dir, record) as run:
                if not run.begin(fresh):
                    if chief:
                        print(f"{save_dir}: this very run is finished; nothing to do")
                    return
                board = None
                if chief:
                    begins = f"going on after step {run.step}" if run.step else taken
                    _present(save_dir, model, split, record, begins)
                    board = TensorBoard(save_dir, record) if tensorboard else None

                def on_epoch(row, history, epochs, seconds_left):
                    if chief:
                        # _save_run writes the last, and all of what extends a finished run.
                        if row["epoch"] < epochs and not run.extends:
                            _write_history(save_dir, history, record)
                        if board:
                            board.write(history)
                        _print_epoch(row, epochs, seconds_left)

                progress = model.train(
                    *split[:2],
                    training_configs,
                    *split[2:],
                    run=run,
                    save_seconds=60 * save_minutes,
                    stop=lambda step: signals.received(),
                    on_epoch=on_epoch,
                )
                if board:  # the last epochs, too, of a process that ended right after their save
                    board.write(progress.history)
                record["machine_changes"] = run.machine_changes
                cluster.in_chief(devices, lambda: _save_run(save_dir, model, record, progress))


def training_data(data, seed: int, training_configs: dict, include_test: bool = False) -> tuple:
    """The images and labels that a run is trained on and validated by.

    Args:
        data: of ``DataLoader.load_data``.
        seed: of the run.
        training_configs: the complete dictionary of Configure.py.
        include_test: append the test images to the training images.

    Returns:
        ``(x_train, y_train, x_valid, y_valid)``, as of ``DataLoader.train_valid_split``.
    """
    x, y, *valid = DataLoader.train_valid_split(
        data.x_train, data.y_train, training_configs["valid_size"], seed
    )
    if training_configs["label_noise"]:
        share, classes = training_configs["label_noise"], len(data.class_names)
        y = DataLoader.replace_labels(y, share, classes, seed)
    if include_test:
        x, y = np.concatenate([x, data.x_test]), np.concatenate([y, data.y_test])
    return x, y, *valid


def describe_run(preset: str, model_configs: dict, training_configs: dict, data) -> dict:
    """What run.json says of a run from its start on, before there is a network."""
    precision, reason = processor.choose_precision(model_configs["precision"])
    return {
        "dataset": training_configs["dataset"],
        "class_names": data.class_names,
        "data_digests": data_digests(data),
        "preset": preset,
        "model_configs": model_configs,
        "training_configs": training_configs,
        "precision": {"used": precision, "reason": reason},
        "versions": processor.versions(),
        "hardware": processor.describe(),
    }


def data_digests(data: DataLoader.DataSet) -> dict[str, str]:
    """SHA-256 of the images and labels of a data set, which a run is known by."""
    return {
        "train": DataLoader.digest(data.x_train, data.y_train),
        "test": DataLoader.digest(data.x_test, data.y_test),
    }


def _take_weights(model, folder: Path) -> str:
    """Give a new model the weights of a finished run; what was taken, in a sentence."""
    from Model import Model

    source = Model.load(folder)
    ours, theirs = (m.network.get_weights() for m in (model, source))
    fits = [a.shape == b.shape for a, b in zip(ours, theirs, strict=False)]
    if len(ours) != len(theirs) or not all(fits[:-2]):
        raise RunError(
            f"init_from: expected a run of the network {model.network.name} with "
            f"{model.network.count_params():,} parameters, found {source.network.name} with "
            f"{source.network.count_params():,} in {folder}; give the same --depth and --width"
        )
    if all(fits):
        model.network.set_weights(theirs)
        return f"all weights come from {folder}"
    model.network.set_weights([*theirs[:-2], *ours[-2:]])
    return f"all weights but the last layer's, which is new, come from {folder}"


def _warn_of_its_split(record: dict, source: dict) -> None:
    """Of a source that was trained on images which are now held out."""
    keys = [("data_digests", "train")]
    if record["training_configs"]["valid_size"]:
        keys += [("model_configs", "seed"), ("training_configs", "valid_size")]
    other = any(record[part][key] != source[part][key] for part, key in keys)
    if other and record["dataset"] == source["dataset"]:
        warnings.warn(
            "init_from: that run had other images, another --seed or another --valid-size; if it "
            "was trained on what are validation or test images now, their accuracy is too high",
            stacklevel=1,
        )


def _present(folder: Path, model, split, record: dict, begins: str | None) -> None:
    """Before training: what the data set is, what the network will see of it, and what begins."""
    x_train, y_train, x_valid, _ = split
    names, dataset = record["class_names"], record["dataset"]
    classes, augmented = (folder / name for name in FIRST_PICTURES)
    files.write_bytes(classes, plots.classes_png(x_train, y_train, names, dataset))
    batch = model.preview_batch(x_train, y_train, record["training_configs"])
    files.write_bytes(augmented, plots.batch_png(*batch, names, dataset))
    print(
        f"{record['dataset']}: {len(x_train)} training and {len(x_valid)} validation images\n"
        f"{record['network']}: {record['parameters']:,} parameters, "
        f"{record['precision']['used']} ({record['precision']['reason']})\ninto {folder}"
    )
    if begins:
        print(begins)


def _write_history(folder: Path, history: list[dict], record: dict) -> None:
    epochs = "1 epoch" if len(history) == 1 else f"{len(history)} epochs"
    title = f"{record['dataset']}: {record['network']}, {epochs}{records.leak_note(record)}"
    files.write_bytes(folder / metrics.HISTORY_FILE, metrics.history_csv(history).encode())
    files.write_bytes(folder / "curves.png", plots.curves_png(history, title))


def _print_epoch(row: dict, epochs: int, seconds_left: float) -> None:
    """One line an epoch; it goes above the progress bar where there is one."""
    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"learning rate {row['learning_rate']:.2e}",
        f"train loss {row['train_loss']:.4f}",
    ]
    if row["train_accuracy"] is not None:
        parts.append(f"train accuracy {100 * row['train_accuracy']:.2f} %")
    if row["valid_loss"] is not None:
        parts.append(f"valid loss {row['valid_loss']:.4f}")
        parts.append(f"valid accuracy {100 * row['valid_accuracy']:.2f} %")
    parts.append(f"{row['images_per_second']:.0f} images/s")
    if row["epoch"] < epochs:
        parts.append(f"{seconds_left / 60:.1f} minutes left")
    tqdm.write("  ".join(parts))


def _save_run(folder: Path, model, record: dict, progress) -> None:
    """After training: weights, and last of all the record, which makes the run whole."""
    history = progress.history
    _write_history(folder, history, record)
    record["minutes"] = progress.seconds / 60
    record["last_epoch"] = history[-1]
    record["history_sha256"] = metrics.history_digest(history)
    record |= weights.save_weights(folder, model.network, model.mean)
    records.write_record(folder, record)
    print(f"trained in {record['minutes']:.1f} minutes")
    print(f"weights {record['weights_sha256']}\nhistory {record['history_sha256']}")
    print(f"curves: {folder / 'curves.png'}")
