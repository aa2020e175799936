"""Metrics and pictures from labels, probabilities and history.

Pictures come back as the bytes of a PNG file, the same bytes for the same input. Fractions (0..1)
stay unrounded; only what a person reads is rounded, accuracies to hundredths of a percent.
"""

import hashlib
import io
import math
from pathlib import Path

import numpy as np

from machine.errors import RunError, UserError

ECE_BINS = 15
HISTORY_HEADER = (
    "epoch,learning_rate,train_loss,train_accuracy,"
    "valid_loss,valid_accuracy,seconds,images_per_second"
)
HISTORY_COLUMNS = tuple(HISTORY_HEADER.split(","))
TIME_COLUMNS = ("seconds", "images_per_second")


def _require(condition, expected: str, found) -> None:
    if not condition:
        raise UserError(f"expected {expected}; found {found}")


def _check_labels(y, num_classes: int, what: str = "labels") -> np.ndarray:
    y = np.asarray(y)
    right = y.ndim == 1 and y.size > 0 and y.dtype.kind in "iu"
    _require(right, f"{what} as integers of shape (N,), N >= 1", f"{y.dtype} of shape {y.shape}")
    inside = (y >= 0) & (y < num_classes)
    row = np.argmin(inside)  # the first one outside, or 0
    _require(inside[row], f"{what} from 0 to {num_classes - 1}", f"{y[row]} at row {row}")
    return y.astype(np.int64)


def _check(y, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as int64 [N] and probabilities as float64 [N, K], or raise UserError."""
    p = np.asarray(probabilities)
    right = p.ndim == 2 and p.shape[1] > 1 and p.dtype.kind in "fiu"
    _require(right, "probabilities as floats (N, K), K >= 2", f"{p.dtype} of shape {p.shape}")
    y, p = _check_labels(y, p.shape[1]), p.astype(np.float64)
    _require(len(y) == len(p), f"{len(y)} rows of probabilities, one for each label", len(p))
    good = (p.min(axis=1) >= 0) & (np.abs(np.abs(p).sum(axis=1) - 1) <= 1e-3)  # False for NaN
    row = np.argmin(good)
    found = f"{p[row].round(4).tolist()} at row {row}"
    _require(good[row], "rows of finite probabilities >= 0 that add up to 1 (softmax)", found)
    return y, p


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval (low, high) of correct / n, as fractions.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927). Unlike p +- 1.96 s it stays inside
    0..1 and is not empty at 0 or 1. Raises UserError unless n >= 1 and 0 <= correct <= n.
    """
    _require(0 <= correct <= n > 0, "0 <= correct <= n and n >= 1", f"correct={correct}, n={n}")
    z = 1.959963984540054  # the two-sided 95 % point of the normal distribution
    p, z2 = correct / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At p = 0 and p = 1 one end is p; rounding must not push it past.
    return float(max(0, min(centre - half, p))), float(min(1, max(centre + half, p)))


def expected_calibration_error(y, probabilities, bins: int = ECE_BINS) -> float:
    """Return the mean of |accuracy - confidence| over bins, weighted by their images; 0..1.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2. Confidence is the largest probability of
    a row; the bins (lo, hi] have equal width. Arguments and errors as for `test_metrics`.
    """
    y, p = _check(y, probabilities)
    _require(bins >= 1, "bins >= 1", bins)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    # count/n * |mean(correct) - mean(confidence)| is |sum(correct - confidence)| / n.
    return float(np.abs(np.bincount(index, weights=correct - confidence)).sum() / len(y))


def confusion_matrix(y, predicted, num_classes: int) -> np.ndarray:
    """Return int64 [K, K]: entry (i, j) counts the images of class i that were taken for class j.

    `y` (the true classes) and `predicted` are integers [N], 0..K-1; UserError on anything else.
    """
    y = _check_labels(y, num_classes)
    predicted = _check_labels(predicted, num_classes, "predicted classes")
    _require(len(y) == len(predicted), f"{len(y)} predictions, one for each label", len(predicted))
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (y, predicted), 1)
    return matrix


def test_metrics(dataset: str, y, probabilities) -> dict:
    """Measure the probabilities of N images against their labels.

    Args:
        dataset: name of the data set.
        y: integers [N], 0..K-1.
        probabilities: floats [N, K], 0..1, rows add up to 1 (within 1e-3).

    Returns:
        dict of plain Python values, ready for JSON: dataset (str), n (int), accuracy (top-1),
        accuracy_interval ([low, high], 95 %), loss (mean negative log likelihood, nats), ece,
        per_class_accuracy (list of K, None for a class without images), confusion_matrix (K lists
        of K ints, rows are the true classes). Fractions are 0..1, unrounded.

    Raises:
        UserError: on any other shape, type or range.
    """
    y, p = _check(y, probabilities)
    matrix = confusion_matrix(y, p.argmax(axis=1), p.shape[1])
    correct, images = np.diag(matrix).tolist(), matrix.sum(axis=1).tolist()
    # Predictions are float32, where 0 means less than 2**-149, the smallest positive float32: the
    # loss stays finite, and no probability that float32 can hold is changed.
    logs = np.log(np.maximum(p[np.arange(len(y)), y], 2.0**-149))
    return {
        "dataset": dataset,
        "n": len(y),
        "accuracy": sum(correct) / len(y),
        "accuracy_interval": list(wilson_interval(sum(correct), len(y))),
        "loss": float(0.0 - logs.mean()),  # unlike a plain minus never -0.0
        "ece": expected_calibration_error(y, p),
        "per_class_accuracy": [c / n if n else None for c, n in zip(correct, images, strict=True)],
        "confusion_matrix": matrix.tolist(),
    }


def measure(y, probabilities) -> dict:
    """Return `test_metrics` without the name of a data set."""
    return {k: v for k, v in test_metrics("", y, probabilities).items() if k != "dataset"}


def metrics_lines(metrics: dict, class_names: list[str]) -> list[str]:
    """Return `metrics` (of `test_metrics`) as lines to print, the classes as an aligned table."""
    matrix = metrics["confusion_matrix"]
    _require(len(class_names) == len(matrix), f"{len(matrix)} class names", len(class_names))
    accuracy, low, high = (100 * v for v in (metrics["accuracy"], *metrics["accuracy_interval"]))
    table = {
        "data set": metrics["dataset"],
        "images": metrics["n"],
        "top-1 accuracy": f"{accuracy:.2f} % (95 % interval {low:.2f} to {high:.2f} %)",
        "loss": f"{metrics['loss']:.4f} (mean negative log likelihood)",
        "ECE": f"{metrics['ece']:.4f} (expected calibration error, {ECE_BINS} bins)",
    }
    width = max(map(len, [*table, *class_names]))
    lines = [f"{key:<{width}}  {value}" for key, value in table.items()]
    lines += ["", f"{'class':<{width}}  images  accuracy"]
    for name, row, value in zip(class_names, matrix, metrics["per_class_accuracy"], strict=True):
        shown = "-" if value is None else f"{100 * value:.2f} %"
        lines.append(f"{name:<{width}}  {sum(row):>6}  {shown:>8}")
    return lines


def _figure(width: float, height: float, title: str):
    from matplotlib.figure import Figure  # here, because drawing is rare and the import slow

    figure = Figure((width, height), dpi=120, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(title, fontsize=12, wrap=True, parse_math=False)  # "$" starts no formula
    return figure


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, dpi=figure.dpi)
    return buffer.getvalue()


def confusion_matrix_png(metrics: dict, class_names: list[str]) -> bytes:
    """Draw the confusion matrix of `metrics` (of `test_metrics`), with the count in each cell."""
    from matplotlib.colors import PowerNorm

    matrix = np.asarray(metrics["confusion_matrix"])
    _require(len(class_names) == len(matrix), f"{len(matrix)} class names", len(class_names))
    accuracy = f"top-1 accuracy {100 * metrics['accuracy']:.2f} %"
    side = 2.5 + 0.6 * len(matrix)
    figure = _figure(side + 0.8, side, f"{metrics['dataset']}: {metrics['n']:,} images, {accuracy}")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    # On a linear scale ten errors in a thousand images would be as white as none.
    norm = PowerNorm(0.3, vmin=0, vmax=max(1, matrix.max()))
    image = axes.imshow(matrix, cmap="Blues", norm=norm)
    cells = range(len(matrix))
    axes.set_xticks(cells, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(cells, class_names)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if norm(count) > 0.65 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    figure.colorbar(image, ax=axes, shrink=0.8, label="images")
    return _png(figure)


def mistakes_png(x, y, probabilities, class_names: list[str], dataset: str, count=25) -> bytes:
    """Draw at most `count` of the wrong predictions, those with the largest probability first.

    `x` is uint8 [N, 32, 32, 3], or anything with a length that an index array can index. The
    other arguments and errors as for `test_metrics`.
    """
    y, p = _check(y, probabilities)
    _require(len(class_names) == p.shape[1], f"{p.shape[1]} class names", len(class_names))
    _require(count >= 1, "count >= 1", count)
    _require(len(x) == len(y), f"{len(y)} images, one for each label", len(x))
    predicted, confidence = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(predicted != y)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    images = np.asarray(x[chosen])
    right = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3)
    found = f"{images.dtype} {(len(x), *images.shape[1:])}"
    _require(right, "images as uint8 (N, 32, 32, 3)", found)
    if not len(chosen):
        return _png(_figure(6, 0.8, f"{dataset}: no mistakes in {len(y):,} images"))
    which = f"{len(chosen)} of {len(wrong):,} mistakes in {len(y):,} images, most confident first"
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    figure = _figure(max(5, 2.3 * columns), 2.3 * rows + 0.9, f"{dataset}: {which}")
    for place, (image, i) in enumerate(zip(images, chosen, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
        text = f"{class_names[y[i]]} → {class_names[predicted[i]]}, {100 * confidence[i]:.1f} %"
        axes.set_title(text, fontsize=9, parse_math=False)
    return _png(figure)


def history_csv(history: list[dict]) -> str:
    """Return the epochs as the text of history.csv; a value that is None or missing is empty.

    Floats are written by `repr`, so that `read_history` gives back the very same numbers. Raises
    UserError on a key that is not in HISTORY_COLUMNS, or an entry without its epoch.
    """
    lines = [HISTORY_HEADER]
    for entry in history:
        right = set(entry) <= set(HISTORY_COLUMNS) and entry.get("epoch") is not None
        _require(right, f"an epoch with only the columns {HISTORY_HEADER}", ",".join(entry))
        values = [entry.get(column) for column in HISTORY_COLUMNS[1:]]
        fields = ["" if value is None else repr(float(value)) for value in values]
        lines.append(",".join([str(int(entry["epoch"])), *fields]))
    return "\n".join(lines) + "\n"


def history_digest(history: list[dict]) -> str:
    """Return the SHA-256 (64 hex digits) of what is learned in a history: all but the times."""
    rows = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in history]
    return hashlib.sha256(history_csv(rows).encode()).hexdigest()


def read_history(path: str | Path) -> dict[str, list[float | None]]:
    """Read history.csv: each of HISTORY_COLUMNS with one value per epoch, None where it is empty.

    Raises RunError if the file is missing, cut short, or not such a table.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        header, *lines = [line.split(",") for line in text.splitlines()] or [[]]
        right = header == list(HISTORY_COLUMNS) and text.endswith("\n")
        _require(right, f"whole lines under {HISTORY_HEADER}", f"{text[:60]!r} ... {text[-20:]!r}")
        broken = [line for line in lines if len(line) != len(header) or not line[0]]
        _require(not broken, f"{len(header)} fields in each line, the first an epoch", broken[:1])
        rows = [[float(field) if field else None for field in line] for line in lines]
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read the history {path}: {error}") from error
    return {column: [row[i] for row in rows] for i, column in enumerate(HISTORY_COLUMNS)}


def curves_png(history: list[dict], title: str) -> bytes:
    """Draw loss, accuracy and learning rate over the epochs, training beside validation.

    `history` has one dict per epoch, keys of HISTORY_COLUMNS, accuracies as fractions; a column
    without a finite value is left out. Raises UserError if there is no epoch.
    """
    from matplotlib.ticker import MaxNLocator

    _require(len(history) > 0, "a history of at least one epoch", "none")
    figure = _figure(13, 4.2, title)
    epochs = np.array([entry["epoch"] for entry in history])
    panels = (
        ("loss", ("train_loss", "valid_loss")),
        ("top-1 accuracy, %", ("train_accuracy", "valid_accuracy")),
        ("learning rate", ("learning_rate",)),
    )
    # Blue and vermillion of Okabe and Ito's palette: told apart with every kind of colour vision.
    train, valid = ("-", "#0072B2", "train"), ("--", "#D55E00", "validation")
    for axes, (name, columns) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.set(xlabel="epoch", ylabel=name, xlim=(epochs.min() - 0.5, epochs.max() + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        for column, (line, color, label) in zip(columns, (train, valid), strict=False):
            values = np.array([entry.get(column) for entry in history], np.float64)
            seen = np.isfinite(values)  # None has become NaN
            if seen.any():
                shown = values[seen] * (100 if "%" in name else 1)
                marker = "o" if len(shown) <= 30 else None
                axes.plot(epochs[seen], shown, line, color=color, marker=marker, label=label)
                if column != "learning_rate":
                    axes.legend()
    return _png(figure)
