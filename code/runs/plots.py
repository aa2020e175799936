"""Every picture of a run, as the bytes of a PNG file: the same bytes for the same input.

Images ``x`` are uint8 ``[N, H, W, 3]``, labels ``y`` integers ``[N]``, probabilities floats
``[N, K]``; ``class_names`` has the name of each label, ``dataset`` is for the title.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
Names = Sequence[str]
READABLE_CLASSES = 100  # of more, a matrix is drawn without names and numbers


@contextlib.contextmanager
def plain_matplotlib():
    """Draw as matplotlib comes, whatever MPLBACKEND and matplotlibrc say."""
    # No backend is needed, but the import refuses one that is not installed, as a notebook's.
    os.environ.pop("MPLBACKEND", None)
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@plain_matplotlib()
def curves_png(history: list[dict], title: str) -> bytes:
    """Draw loss, accuracy and learning rate over the epochs, training beside validation.

    Args:
        history: a dictionary for each epoch, at least one, keys of ``metrics.HISTORY_COLUMNS``,
            accuracies as fractions; a column without a finite value is left out.
        title: one line above.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(13, 4.2, title)
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
    return to_png(figure)


@plain_matplotlib()
def confusion_matrix_png(metrics: dict, class_names: Names) -> bytes:
    """Draw the confusion matrix of ``metrics.measure`` and a "dataset", with all counts."""
    matrix = np.asarray(metrics["confusion_matrix"])
    readable = len(matrix) <= READABLE_CLASSES
    accuracy = f"top-1 accuracy {100 * metrics['accuracy']:.2f} %"
    side = 2.5 + 0.6 * min(len(matrix), READABLE_CLASSES)
    figure = new_figure(
        side + 0.8, side, f"{metrics['dataset']}: {metrics['n']:,} images, {accuracy}"
    )
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    image = draw_matrix(axes, matrix, matrix, class_names, words=readable)
    most = image.norm.vmax
    ticks = [n for power in range(9) for n in (10**power, 3 * 10**power) if n <= most]
    figure.colorbar(image, ax=axes, shrink=0.8, label="images", ticks=[0, *ticks])
    return to_png(figure)


def draw_matrix(
    axes,
    matrix: Array,
    shades: Array,
    class_names: Names,
    size: float | None = None,
    words: bool = True,
):
    """Draw a matrix ``[K, K]``, "?" for NaN, on ``shades`` of blue; give matplotlib's image.

    Without ``words``, the names and numbers are left out.
    """
    from matplotlib.colors import PowerNorm

    # On a linear scale ten errors in a thousand images would be as white as none.
    norm = PowerNorm(0.3, vmin=0, vmax=max(1, shades.max()))
    image = axes.imshow(shades, cmap="Blues", norm=norm)
    if not words:
        return image
    places, turned = range(len(matrix)), {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, class_names, fontsize=size, parse_math=False, **turned)
    axes.set_yticks(places, class_names, fontsize=size, parse_math=False)
    for (row, column), count in np.ndenumerate(matrix):
        text = "?" if math.isnan(count) else f"{count:.0f}"
        color = "white" if norm(shades[row, column]) > 0.65 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    return image


def mistakes_png(
    x: Array, y: Array, probabilities: Array, class_names: Names, dataset: str, count: int = 25
) -> bytes:
    """Draw at most ``count`` of the wrong predictions, those with the largest probability first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != y)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    title = f"{dataset}: no mistakes in {len(y):,} images"
    if len(wrong):
        which = f"{len(chosen)} of {len(wrong):,} mistakes in {len(y):,} images"
        title = f"{dataset}: {which}, most confident first"
    captions = [
        f"{class_names[y[i]]}\n→ {class_names[predicted[i]]}, {100 * confidence[i]:.1f} %"
        for i in chosen
    ]
    return gallery_png(x[chosen], captions, max(1, math.ceil(math.sqrt(len(chosen)))), title)


def classes_png(x: Array, y: Array, class_names: Names, dataset: str, columns: int = 10) -> bytes:
    """Draw the report's Figure 1: the first images of every class, a row each.

    A class with fewer images than ``columns`` is filled up with white.
    """
    blank = np.full((1, *x.shape[1:]), 255, x.dtype)
    found = [x[np.flatnonzero(y == label)[:columns]] for label in range(len(class_names))]
    padded = [np.concatenate([part, blank.repeat(columns - len(part), 0)]) for part in found]
    images = np.concatenate(padded)
    title = f"{dataset}: training images of each class"
    return gallery_png(images, [""] * len(images), columns, title, class_names)


def batch_png(
    images: Array, labels: Array, class_names: Names, dataset: str, columns: int = 8
) -> bytes:
    """Draw a batch as the network sees it, with what it is taught.

    The images are float32 ``[B, H, W, 3]`` in about 0..1, the labels float32 ``[B, K]``.
    """
    captions = []
    for row in labels:
        best = [label for label in np.argsort(-row, kind="stable")[:2] if row[label] >= 0.005]
        captions.append(
            "\n".join(f"{100 * row[label]:.0f} % {class_names[label]}" for label in best)
        )
    return gallery_png(images, captions, columns, f"{dataset}: augmented training batch")


@plain_matplotlib()
def gallery_png(
    images: Array, captions: Names, columns: int, title: str, row_names: Names = ()
) -> bytes:
    """Draw images in a grid, each pixel as a square.

    Args:
        images: uint8 ``[N, H, W, 3]``, or float in [0, 1] (outside values are clipped).
        captions: N strings, drawn under the images, two lines at most.
        columns: images in a row.
        title: one line above.
        row_names: names of the rows, drawn on the left.
    """
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    rows, (height, width) = -(-len(images) // columns), images.shape[1:3]
    gap = height // (2 if any(captions) else 12)
    pitch = np.array([height + gap, width + gap])
    # One picture of all images: matplotlib takes seconds for a hundred axes.
    canvas = np.full((*np.maximum(pitch * (rows, columns) - gap, 1), 3), 255, np.uint8)
    size = canvas.shape[1] + (height if row_names else 0), canvas.shape[0] + height / 2
    inches = np.maximum(np.array(size) * 0.85 / height, (5, 1))
    figure = new_figure(*inches, title)
    axes = figure.add_subplot()
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top, left = pitch * divmod(index, columns)
        canvas[top : top + height, left : left + width] = image
        middle = left + (width - 1) / 2
        axes.text(
            middle, top + height, caption, fontsize=7, ha="center", va="top", parse_math=False
        )
    axes.imshow(canvas, interpolation="nearest")
    axes.set_xticks([])
    rows = pitch[0] * np.arange(len(row_names)) + (height - 1) / 2
    axes.set_yticks(rows, row_names, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return to_png(figure)


def new_figure(width: float, height: float, title: str):
    """An empty figure of so many inches with a title."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=100, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(title, fontsize=11, wrap=True, parse_math=False)  # "$" starts no formula
    return figure


def to_png(figure) -> bytes:
    """The bytes of the PNG file of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, dpi=figure.dpi)
    return buffer.getvalue()
