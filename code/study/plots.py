"""The pictures of a study, from what ``study.tables.tabulate`` gives: PNG bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from runs.plots import draw_matrix, new_figure, plain_matplotlib, to_png
from sources.cifar import CIFAR10
from study.report import DATASET, FIGURES, TEST_IMAGES

# Okabe and Ito's palette without yellow, which is hard to see on white: told apart with every kind
# of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")


@plain_matplotlib()
def curves_png(results: dict) -> bytes:
    """Draw training loss and validation accuracy of all rows: the mean, a band over the seeds.

    More rows than colours get several pairs of panels, one below the other.
    """
    rows = [row for row in results["rows"] if row["runs"]]
    groups = np.array_split(rows, -(-len(rows) // len(COLORS)))
    figure = new_figure(13, len(groups) * (4 + 0.13 * len(groups[0])), _title(results))
    panels = (("train_loss", "training loss", 1), ("valid_accuracy", "validation accuracy, %", 100))
    drawn = []
    for part, group in zip(figure.subfigures(len(groups), squeeze=False).flat, groups, strict=True):
        drawn.append(part.subplots(1, 2))
        for axes, panel in zip(drawn[-1], panels, strict=True):
            _curves(axes, group, *panel)
        # The sides share the legend, which stands below them.
        part.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9
        )
    longest = max(run["epochs"] for row in rows for run in row["runs"])
    for column in zip(*drawn, strict=True):
        lows, highs = zip(*(axes.get_ylim() for axes in column), strict=True)
        for axes in column:
            axes.set(xlim=(0.5, longest + 0.5), ylim=(min(lows), max(highs)))
    return to_png(figure)


def _curves(axes, rows: Sequence[dict], column: str, label: str, scale: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    for i, row in enumerate(rows):
        histories = [run["history"][column] for run in row["runs"]]
        shortest = min(map(len, histories))
        values = scale * np.array([h[:shortest] for h in histories], np.float64)
        epochs = np.arange(1, shortest + 1)
        text = textwrap.shorten(f"{row['name']}: {row['text']}", 75, placeholder=" ...")
        style = {"color": COLORS[i], "ls": LINES[i % len(LINES)], "label": text}
        axes.plot(epochs, values.mean(0), marker="o" if shortest == 1 else None, **style)
        if len(values) > 1:
            band = {"color": COLORS[i], "alpha": 0.15, "lw": 0}
            axes.fill_between(epochs, values.min(0), values.max(0), **band)


@plain_matplotlib()
def matrices_png(results: dict) -> bytes | None:
    """Draw figures 3 to 5 of the report, and below each our own, with the true class in columns.

    Returns:
        PNG bytes, or None where no row of the results has such a figure, or on other data.
    """
    rows = {row["name"]: row for row in results["rows"] if row["runs"]}
    shown = [figure for figure in FIGURES if figure.row in rows]
    if (results["study"], results["dataset"]) != ("tables", DATASET) or not shown:
        return None
    picture = new_figure(6.2 * len(shown), 11.6, f"{_title(results)}: confusion matrices")
    panels = picture.subplots(2, len(shown), squeeze=False)
    for (above, below), figure in zip(panels.T, shown, strict=True):
        row = rows[figure.row]
        reported = np.array(figure.matrix, np.float64)
        accuracy = f"diagonal {100 * reported.trace() / TEST_IMAGES:.2f} %"
        _matrix(
            above,
            reported,
            CIFAR10.class_names,
            f"report, figure {figure.number}, {figure.row}: {accuracy}",
        )
        ours = np.array(row["confusion_matrix"], np.float64).T / len(row["runs"])
        seeds = f", mean of {len(row['runs'])} seeds" * (len(row["runs"]) > 1)
        epochs = " or ".join(map(str, sorted({run["epochs"] for run in row["runs"]})))
        accuracy = f"diagonal {100 * ours.trace() / ours.sum():.2f} %"
        _matrix(
            below,
            ours,
            results["class_names"],
            f"ours, {row['name']}, {epochs} epochs{seeds}: {accuracy}",
        )
    return to_png(picture)


def _matrix(axes, matrix, class_names, title):
    # Each column as a share of its class.
    shares = np.nan_to_num(matrix / np.maximum(1, np.nansum(matrix, axis=0)))
    draw_matrix(axes, matrix, shares, class_names, 8)
    axes.set(xlabel="true class", ylabel="predicted class")
    axes.set_title(title, fontsize=10, parse_math=False)


def _title(results: dict) -> str:
    finished, expected = results["finished"], results["expected"]
    part = "" if finished == expected else f" (PARTIAL: {finished} of {expected} runs)"
    leaked = sum(bool(row["leak"] and row["runs"]) for row in results["rows"])
    loud = f", {leaked} row{'s' * (leaked > 1)} TRAINED ON THE TEST IMAGES" if leaked else ""
    return f"{results['study']} on {results['dataset']}{part}{loud}"
