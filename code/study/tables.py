"""What finished runs say: a row for each configuration, as plain values ready for JSON."""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path

import Configure
from Configure import Row, Study
from machine.errors import RunError
from runs.metrics import HISTORY_FILE, TEST_FILE, TRAIN_FILE, read_test_metrics, wilson_interval
from runs.record import RECORD_FILE, read_record

DENOMINATORS = {"accuracy": "n", "memorized": "false_labels"}  # what a share is one of
CURVES = ("train_loss", "valid_accuracy")
# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
T95 = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157),
    *(2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922),
    *(2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831),
    *(2.048407, 2.045230, 2.042272),
)


def is_finished(folder: Path) -> bool:
    """If the run in ``folder`` was trained, tested, and measured on its own training images."""
    return all((folder / name).exists() for name in (RECORD_FILE, TEST_FILE, TRAIN_FILE))


def read_run(folder: Path) -> dict:
    """Read a finished and tested run.

    Returns:
        "record" of ``runs.record``, "test" and "train" (None where the training images were not
        measured) of ``runs.metrics.measure``, and "history", the columns ``CURVES`` by name.

    Raises:
        RunError: a file is missing or damaged.
    """
    record = read_record(folder)
    run = {"record": record, "test": read_test_metrics(folder, record), "train": None}
    if run["test"] is None:
        raise RunError(
            f"{folder}: expected a tested run, found no {TEST_FILE}; run python main.py test "
            f"--save-dir {folder}"
        )
    try:
        if (folder / TRAIN_FILE).exists():
            train = json.loads((folder / TRAIN_FILE).read_text())
            # The run may have been extended since.
            if train.get("weights_sha256", record["weights_sha256"]) == record["weights_sha256"]:
                run["train"] = train
        with (folder / HISTORY_FILE).open(newline="") as file:
            lines = list(csv.DictReader(file))
        run["history"] = {
            column: [float(line[column]) if line[column] else None for line in lines]
            for column in CURVES
        }
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder}: damaged: {error}") from error
    return run


def tabulate(name: str, study: Study, runs: dict[str, list[dict]], expected: int) -> dict:
    """Put the finished runs of a study together.

    Args:
        name: of the study.
        study: its rows and their texts.
        runs: of ``read_run``, by the name of the row.
        expected: runs when all are finished.

    Returns:
        Plain values: accuracies and shares are fractions, "reported" is in percent.

    Raises:
        RunError: the runs were measured on different test images, or in different ways.
    """
    found = [run for row in runs.values() for run in row]
    if len({run["record"]["data_digests"]["test"] for run in found}) > 1:
        names = sorted({run["record"]["dataset"] for run in found})
        raise RunError(
            "expected runs that were measured on the same test images, found different ones "
            f"(data: {', '.join(names)}); name runs on one data set"
        )
    ways = {tuple(run["test"][key] for key in Configure.TEST_TIME) for run in found}
    how = [dict(zip(Configure.TEST_TIME, values, strict=True)) for values in sorted(ways)]
    if len(how) > 1:
        raise RunError(
            "expected runs that look at an image in one way, found "
            f"{'; '.join(map(str, how))}; name runs that were trained with the same of these keys"
        )
    changed = {
        line
        for row in study.rows
        for run in runs.get(row.name, [])
        for line in _changed(study, row, run["record"])
    }
    rows = {row.name: _row(row, runs.get(row.name, [])) for row in study.rows}
    for row in study.rows:
        if row.against in rows:
            rows[row.name]["difference"] = _difference(row, rows[row.name], rows[row.against])
    first = found[0] if found else None
    return {
        "study": name,
        "text": study.text,
        "finished": len(found),
        "expected": expected,
        "report_epochs": study.epochs,
        "changed": sorted(changed),
        "dataset": first and first["record"]["dataset"],
        "class_names": first and first["record"]["class_names"],
        "test_images": first and first["test"]["n"],
        "how": first and how[0],
        "rows": list(rows.values()),
    }


def _changed(study: Study, row: Row, record: dict) -> list[str]:
    """What a run of a study has in place of the study's own values, but for its epochs."""
    if not study.epochs:  # a comparison
        return []
    epochs = {"epochs": record["training_configs"]["epochs"]}
    own = Configure.study_overrides(study, row, record["model_configs"]["seed"], epochs)
    own = dict(zip(Configure.KEYS, Configure.configure(study.preset, own), strict=True))
    return [
        f"{key} {record[part][key]} for {value}"
        for part, values in own.items()
        for key, value in values.items()
        if key != "precision" and record[part][key] != value
    ]


def _row(row: Row, runs: list[dict]) -> dict:
    """All that the table says of one configuration."""
    listed = sorted((_run(run) for run in runs), key=lambda run: run["seed"])
    said = ("name", "text", "reported", "against", "leak", "measure", "question", "claim")
    result = {
        **{key: getattr(row, key) for key in said},
        "runs": listed,
        "difference": None,
    }
    if runs:
        accuracies = [run["accuracy"] for run in listed]
        result["accuracy"] = statistics.fmean(accuracies)
        result["deviation"] = statistics.stdev(accuracies) if len(runs) > 1 else None
        for key in ("train_accuracy", "memorized"):
            values = [run[key] for run in listed]
            result[key] = None if None in values else statistics.fmean(values)
        matrices = [run["test"]["confusion_matrix"] for run in runs]
        result["confusion_matrix"] = [
            [sum(cells) for cells in zip(*lines, strict=True)]
            for lines in zip(*matrices, strict=True)
        ]
    return result


def _run(run: dict) -> dict:
    """All that the table says of one run."""
    record, test, train = run["record"], run["test"], run["train"] or {}
    return {
        "seed": record["model_configs"]["seed"],
        "accuracy": test["accuracy"],
        "n": test["n"],
        "interval": test["accuracy_interval"],  # Wilson's
        "train_accuracy": train.get("accuracy"),
        "memorized": train.get("memorized"),
        "false_labels": train.get("false_labels"),
        "images": train.get("n"),
        "minutes": record["minutes"],
        "epochs": record["training_configs"]["epochs"],
        "processor": record["hardware"]["processor"],
        "cores": record["hardware"].get("cores"),
        "gpus": record["hardware"].get("gpus"),
        "machine_changes": record["machine_changes"],
        "precision": record["precision"]["used"],
        "versions": record["versions"],
        "weights_sha256": record["weights_sha256"],
        "history": run["history"],
    }


def _difference(row: Row, ours: dict, theirs: dict) -> dict | None:
    """The difference to the neighbour over the seeds that both have, and the row's answer."""
    other = {run["seed"]: run for run in theirs["runs"]}
    pairs = [(run, other[run["seed"]]) for run in ours["runs"] if run["seed"] in other]
    # Its share is unknown where the training images were measured with weights of before.
    pairs = [pair for pair in pairs if None not in (run[row.measure] for run in pair)]
    if not pairs:
        return None
    if len(pairs) > 1:
        mean, low, high = paired_interval([a[row.measure] - b[row.measure] for a, b in pairs])
    else:
        # Right answers of the test images, or memorized ones of the false labels.
        (p, n), (q, m) = ((run[row.measure], run[DENOMINATORS[row.measure]]) for run in pairs[0])
        mean, low, high = newcombe_interval(round(p * n), n, round(q * m), m)
    sign = -1 if row.lower else 1
    bounds = sorted((sign * low, sign * high))
    answer = "yes" if bounds[0] > 0 else "no" if bounds[1] < 0 else "cannot be told"
    return {
        "mean": mean,
        "interval": [low, high],
        "seeds": len(pairs),
        "epochs": min(run["epochs"] for pair in pairs for run in pair),
        "answer": answer,
    }


def paired_interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of Student's t, of two or more differences (31 at most are exact)."""
    n = len(differences)
    mean = statistics.fmean(differences)
    half = T95[min(n - 1, len(T95)) - 1] * statistics.stdev(differences) / math.sqrt(n)
    return mean, mean - half, mean + half


def newcombe_interval(a: int, n: int, b: int, m: int) -> tuple[float, float, float]:
    """The difference a / n - b / m and its 95 % interval, from the two Wilson intervals.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent
    proportions", Statistics in Medicine 17 (1998), method 10. Of the same test images it is too
    wide rather than too narrow; it knows nothing of other seeds.
    """
    (low_a, high_a), (low_b, high_b) = wilson_interval(a, n), wilson_interval(b, m)
    p, q = a / n, b / m
    low = p - q - math.hypot(p - low_a, high_b - q)
    return p - q, low, p - q + math.hypot(high_a - p, q - low_b)
