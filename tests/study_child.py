"""What ``main.py study --only`` leaves behind, without training: an epoch is a moment of sleep.

And ``work``: a process that starts such runs.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from saved import FINISHED, changed

import Configure
import DataLoader
from machine.errors import UserError
from runs.metrics import wilson_interval
from verbs.study import study

HEADER = "epoch,learning_rate,train_loss,train_accuracy,valid_loss,valid_accuracy,seconds,x\n"
N = 200
STAND_IN = DataLoader.DataSet(*np.zeros((2, 10), np.int32), *np.zeros((2, 5), np.int32), ())


def write_run(folder, configs, correct, **changes):
    """A finished and tested run of two classes, of 200 test images of which so many are right."""
    folder.mkdir(parents=True, exist_ok=True)
    model, training = configs
    record = changed(FINISHED, model_configs=model, training_configs=training, **changes)
    if not (folder / "history.csv").exists():
        (folder / "history.csv").write_text(HEADER + "1,0.1,1.0,,1.0,0.5,1.0,1.0\n")
    half, wrong = N // 2, N - correct
    measured = {
        "n": N,
        "accuracy": correct / N,
        "accuracy_interval": wilson_interval(correct, N),
        "loss": 0.5,
        "ece": 0.1,
        "confusion_matrix": [[half - wrong, wrong], [0, half]],
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "test_metrics.json").write_text(json.dumps(measured))
    trained = {**measured, "accuracy": (correct - 10) / N}
    (folder / "train_metrics.json").write_text(json.dumps(trained))


def stand_in_digest(x, y):
    """The digests of ``saved.RECORD``."""
    return "a" if len(x) == 10 else "b"


def work_on_stand_ins(*arguments, **values):
    """``work`` without data."""
    DataLoader.load_data = lambda *_: STAND_IN
    DataLoader.digest = stand_in_digest
    work(*arguments, **values)


def work(environment, together, **values):
    """Run a study as ``main.py`` does: one line for what the user got wrong, and its exit code.

    Args:
        environment: all variables, in place of those that the server of processes began with.
        together: a barrier of all processes that are to begin at once.
        values: of ``study``.
    """
    os.environ.clear()
    os.environ.update(environment)
    together.wait()
    try:
        study(**values)
    except UserError as error:
        print(error)
        sys.exit(error.exit_code)


def main():
    parser = argparse.ArgumentParser()
    for position in ("study", "name"):
        parser.add_argument(position)
    for flag in ("--save-dir", "--data-dir", "--only", "--dataset"):
        parser.add_argument(flag)
    for flag in ("--seed", "--epochs", "--valid-size"):
        parser.add_argument(flag, type=int)
    values = parser.parse_args()
    folder = Path(values.save_dir) / f"{values.only}-{values.seed}"
    folder.mkdir(exist_ok=True)
    with (folder.parent / "started.txt").open("a") as file:
        place = {"cores": sorted(os.sched_getaffinity(0))}
        place |= {"process": os.getpid(), "parent": os.getppid()}
        place["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        file.write(json.dumps({"run": folder.name, **place}) + "\n")
    if values.only == os.environ.get("DIVERGES"):
        time.sleep(float(os.environ.get("SECONDS_AN_EPOCH", "0")))
        sys.exit("error: the loss became infinite or NaN at step 7")
    if "DEAF" not in os.environ:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    history = folder / "history.csv"
    if not history.exists():
        history.write_text(HEADER)
    for epoch in range(len(history.read_text().splitlines()), values.epochs + 1):
        with history.open("a") as file:
            file.write(f"{epoch},0.1,{1 / epoch},,1.0,{1 - 1 / (epoch + 1)},1.0,1.0\n")
        time.sleep(float(os.environ.get("SECONDS_AN_EPOCH", "0")))
    study = Configure.STUDIES[values.name]
    row = next(row for row in study.rows if row.name == values.only)
    overrides = {key: getattr(values, key) for key in ("epochs", "dataset", "valid_size")}
    chosen = Configure.study_overrides(study, row, values.seed, overrides)
    correct = 120 + 10 * study.rows.index(row) + values.seed
    write_run(folder, Configure.configure(study.preset, chosen), correct)


if __name__ == "__main__":
    main()
