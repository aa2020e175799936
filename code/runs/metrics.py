"""Measures of labels, probabilities and history.

Fractions (0..1) stay unrounded; only what a person reads is rounded, accuracies to hundredths of a
percent.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np

import Configure
from machine.errors import RunError

ECE_BINS = 15
HISTORY_COLUMNS = (
    *("epoch", "learning_rate", "train_loss", "train_accuracy"),
    *("valid_loss", "valid_accuracy", "seconds", "images_per_second"),
)
HISTORY_FILE = "history.csv"
# What `measure` found on the test images and on those trained on; see `metrics_file`.
TEST_FILE, TRAIN_FILE = "test_metrics.json", "train_metrics.json"
TIME_COLUMNS = ("seconds", "images_per_second")


def measure(y: np.ndarray, probabilities: np.ndarray) -> dict:
    """Measure the probabilities of N images against their labels.

    Args:
        y: integers ``[N]``, 0..K-1, N >= 1.
        probabilities: floats ``[N, K]``, rows add up to 1.

    Returns:
        Plain Python values, ready for JSON: ``n``, ``accuracy`` (top-1), ``accuracy_interval``
        ([low, high], 95 %), ``loss`` (mean negative log likelihood, nats), ``ece``,
        ``confidence_bins`` (of ``confidence_bins``),
        ``per_class_accuracy`` (K values, None for a class without images), ``confusion_matrix``
        (K lists of K ints, rows are the true classes). Fractions are 0..1, unrounded.
    """
    p = np.asarray(probabilities, np.float64)
    matrix = confusion_matrix(y, p.argmax(axis=1), p.shape[1])
    correct, images = np.diag(matrix).tolist(), matrix.sum(axis=1).tolist()
    # A softmax in float32 gives 0 for what is too small for it. With the smallest positive float32
    # in its place the loss stays finite.
    logs = np.log(np.maximum(p[np.arange(len(y)), y], 2.0**-149))
    bins = confidence_bins(y, p)
    return {
        "n": len(y),
        "accuracy": sum(correct) / len(y),
        "accuracy_interval": list(wilson_interval(sum(correct), len(y))),
        "loss": float(0.0 - logs.mean()),  # unlike a plain minus never -0.0
        "ece": expected_calibration_error(bins),
        "confidence_bins": bins,
        "per_class_accuracy": [c / n if n else None for c, n in zip(correct, images, strict=True)],
        "confusion_matrix": matrix.tolist(),
    }


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval (low, high) of correct / n, as fractions; n >= 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927). Unlike p +- 1.96 s it stays inside
    0..1 and is not empty at 0 or 1.
    """
    z = 1.959963984540054  # the two-sided 95 % point of the normal distribution
    p, z2 = correct / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At p = 0 and p = 1 one end is p; rounding must not push it past.
    return float(max(0, min(centre - half, p))), float(min(1, max(centre + half, p)))


def expected_calibration_error(bins: list[list[float]]) -> float:
    """The mean of |accuracy - confidence| over ``confidence_bins``, weighted by their images; 0..1.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    return sum(n * abs(accuracy - mean) for n, mean, accuracy in bins) / sum(n for n, *_ in bins)


def confidence_bins(
    y: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS
) -> list[list[float]]:
    """The points of a reliability diagram: [images, mean confidence, accuracy] of each bin.

    Confidence is the largest probability of a row; the bins (lo, hi] have equal width, and an empty
    one is [0, 0.0, 0.0]. Arguments as for ``measure``.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    images = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=w, minlength=bins) for w in (confidence, correct)]
    means = np.stack(sums) / np.maximum(images, 1)
    return [[int(n), *map(float, pair)] for n, pair in zip(images, means.T, strict=True)]


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count for each class what its images were taken for.

    Args:
        y: the true classes, integers ``[N]``, 0..K-1.
        predicted: the predicted classes, likewise.
        num_classes: K.

    Returns:
        int64 ``[K, K]``: entry (i, j) counts the images of class i that were taken for class j.
    """
    # As int64: 100 classes are too many for the products of uint8 labels.
    pairs = np.bincount(y.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def describe_views(values: dict) -> str:
    """How an image was looked at, besides as it is, in words, by its keys test_time_*."""
    words = ["with its mirror image"] * values["test_time_flip"]
    words += ["moved by a pixel"] * values["test_time_shift"]
    return f", each also {' and '.join(words)}" if words else ""


def metrics_file(split: str, how: dict, configs: dict) -> str:
    """Name of the file of what `measure` found, in the folder of the run.

    Args:
        split: of ``Configure.SPLITS``.
        how: the keys "precision" and ``Configure.TEST_TIME`` of the measurement.
        configs: ``model_configs`` of the run. What was measured with other values than its own, or
            not in float32, has a file of its own.
    """
    words = ["flip"] * how["test_time_flip"] + ["shift"] * how["test_time_shift"]
    words += [how["precision"]] * (how["precision"] != "float32")
    own = {"precision": "float32", **{key: configs[key] for key in Configure.TEST_TIME}}
    words = [] if own.items() <= how.items() else words or ["plain"]
    return f"{'_'.join([split, 'metrics', *words])}.json"


def read_test_metrics(folder: Path, record: dict) -> dict | None:
    """Read what ``main.py test`` found of a run.

    Args:
        folder: of the run.
        record: of the run.

    Returns:
        The metrics of ``measure`` and how they were measured; None if it was not tested.

    Raises:
        RunError: the file is damaged, or of weights that the run had before.
    """
    path = folder / TEST_FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        rows = [len(found["confusion_matrix"]), *map(len, found["confusion_matrix"])]
        if {*rows} != {len(record["class_names"])}:
            raise ValueError(f"a confusion matrix of {rows[0]} classes")
        numbers = (found[key] for key in ("n", "accuracy", "loss", "ece"))
        sum((*numbers, *found["accuracy_interval"]))  # they are numbers
        if found.get("weights_sha256", record["weights_sha256"]) != record["weights_sha256"]:
            raise ValueError("metrics of other weights")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{path}: expected what python main.py test writes of this run, found {error!r}; run "
            "it again"
        ) from error
    # A file that was written before these keys existed lacks them.
    return {**dict.fromkeys(Configure.TEST_TIME, False), **found}


def accuracy_text(metrics: dict) -> str:
    """The accuracy that ``measure`` gives, with its interval."""
    accuracy, low, high = (100 * v for v in (metrics["accuracy"], *metrics["accuracy_interval"]))
    return f"{accuracy:.2f} % (95 % interval {low:.2f} to {high:.2f} %)"


def metrics_lines(metrics: dict, class_names: list[str]) -> list[str]:
    """What ``main.py test`` writes of images as lines: the classes are a table."""
    table = {
        "data set": metrics["dataset"],
        "images": metrics["n"],
        "top-1 accuracy": accuracy_text(metrics),
        "loss": f"{metrics['loss']:.4f} (mean negative log likelihood)",
        "ECE": f"{metrics['ece']:.4f} (expected calibration error, {ECE_BINS} bins)",
    }
    if metrics.get("false_labels"):
        share, count = 100 * metrics["memorized"], metrics["false_labels"]
        table["memorized"] = f"{share:.2f} % of {count} false labels"
    width = max(map(len, [*table, *class_names]))
    lines = [f"{key:<{width}}  {value}" for key, value in table.items()]
    lines += ["", f"{'class':<{width}}  images  accuracy"]
    rows = zip(class_names, metrics["confusion_matrix"], metrics["per_class_accuracy"], strict=True)
    for name, row, value in rows:
        shown = "-" if value is None else f"{100 * value:.2f} %"
        lines.append(f"{name:<{width}}  {sum(row):>6}  {shown:>8}")
    return lines


def history_csv(history: list[dict]) -> str:
    """The epochs as the text of history.csv.

    Args:
        history: a dictionary for each epoch, keys of ``HISTORY_COLUMNS``; a value that is None or
            missing is left empty, a float is written so that it reads back the very same.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def history_digest(history: list[dict]) -> str:
    """SHA-256 (64 hex digits) of what is learned in a history: all but the times."""
    rows = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in history]
    return hashlib.sha256(history_csv(rows).encode()).hexdigest()
