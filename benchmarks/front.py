"""Draw what accuracy costs: finished runs of this package, over computation and over minutes.

Writes ``docs/front.png``. Computation is six times the multiply-adds of an image (two operations
each; backward takes twice as much as forward), times the images that were trained on.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from harness import CODE, HERE
from machine import files, processor
from runs.metrics import TEST_FILE, metrics_file
from runs.plots import new_figure, plain_matplotlib, to_png
from runs.record import read_record
from study.plots import COLORS
from training.schedules import work

DOCS = HERE.parent / "docs"
# Name, PFLOP of the training, accuracy on CIFAR-10's test images in percent.
PUBLISHED = (
    ("He et al., ResNet-20", 2.0, 91.25),  # 64,000 steps of 128 images
    ("Keras example, ResNet-20 (best epoch on test)", 2.4, 92.16),  # 200 epochs of 50,000
    ("airbench94_spectral *", 0.29, 94.05),
    ("airbench95 *", 1.4, 95.01),
    ("airbench96_faster *", 3.1, 96.0),
    ("ResNet-18", 32.3, 96.0),
    ("WRN-28-10", 314.0, 96.1),  # 5.24 billion multiply-adds, 200 epochs of 50,000
    ("WRN-28-10, AutoAugment", 314.0, 97.4),
)
CLAIM = 97.47
BLUE, ORANGE = COLORS[:2]
SMALL = (0.0, 0.5)  # shares of the epochs on small images that are drawn
# Where a label has its place, in points from its mark, if another one is in the usual place.
ELSEWHERE = {"airbench95 *": (6, 4), "wide": (-25, 4), "wide *": (-34, 4)}
FLIP_SHIFT = {"precision": "float32", "test_time_flip": True, "test_time_shift": True}


def shipped() -> list[tuple[str, float, float]]:
    """Name, PFLOP and test accuracy in percent of every shipped run; * is with flips and shifts."""
    processor.prepare_tensorflow()
    from Network import resnet_v1
    from study.network import multiply_adds

    runs = []
    for folder in sorted(path.parent for path in (CODE / "saved_models").glob(f"*/{TEST_FILE}")):
        record = read_record(folder)
        if record["dataset"] != "cifar10":
            continue
        model, configs = record["model_configs"], record["training_configs"]
        network = resnet_v1(depth=model["depth"], width=model["width"])
        images = work(configs["epochs"], configs) * (50_000 - configs["valid_size"])
        operations = 6 * multiply_adds(network) * images
        both = metrics_file("test", FLIP_SHIFT, model)
        for name, path in (("", folder / TEST_FILE), (" *", folder / both)):
            if path.exists():
                accuracy = json.loads(path.read_text())["accuracy"]
                runs.append((f"{folder.name}{name}", operations / 1e15, 100 * accuracy))
    return runs


def trials(folders: list[Path]) -> dict[tuple[int, float], list[tuple[float, float, int]]]:
    """Minutes, validation accuracy in percent, and epochs of ``fast``.

    By width and by the share of the epochs on small images. Of several seeds it is their mean.
    """
    import Configure

    runs: dict[tuple[int, float, int], list[tuple[float, float]]] = {}
    for folder in folders:
        record = read_record(folder)
        model, training = record["model_configs"], record["training_configs"]
        width, small, epochs = model["width"], training["small_share"], training["epochs"]
        changes = {"width": width, "small_share": small, "seed": model["seed"], "epochs": epochs}
        if small in SMALL and (model, training) == Configure.configure("fast", changes):
            accuracy = 100 * record["last_epoch"]["valid_accuracy"]
            runs.setdefault((width, small, epochs), []).append((record["minutes"], accuracy))
    found: dict[tuple[int, float], list[tuple[float, float, int]]] = {}
    for (width, small, epochs), seeds in sorted(runs.items()):
        means = map(statistics.fmean, zip(*seeds, strict=True))
        found.setdefault((width, small), []).append((*means, epochs))
    return found


@plain_matplotlib()
def front_png(
    own: list[tuple[str, float, float]],
    tried: dict[tuple[int, float], list[tuple[float, float, int]]],
) -> bytes:
    """Draw test accuracy over computation, and validation accuracy over minutes."""
    figure = new_figure(13, 5, "What accuracy costs on CIFAR-10")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    left.set(xlabel="PFLOP of the training", ylabel="top-1 accuracy, 10,000 test images, %")
    left.axhline(CLAIM, color="black", lw=1, ls=":")
    left.text(0.2, CLAIM + 0.1, "the report's claim, not reproduced", fontsize=8)
    left.text(0.02, 0.02, "* with flips and shifts", transform=left.transAxes, fontsize=8)
    for runs, color, marker, label, beside in (
        (own, BLUE, "o", "this package, measured", (6, 4)),
        (PUBLISHED, ORANGE, "^", "published", (2, -13)),
    ):
        _, operations, accuracies = zip(*runs, strict=True)
        left.plot(operations, accuracies, marker, color=color, label=label)
        for name, x, y in runs:
            place = ELSEWHERE.get(name, beside)
            left.annotate(name, (x, y), place, textcoords="offset points", fontsize=8)
    left.set(xlim=(0.18, 6000), ylim=(89, 98.2))
    right.set(
        xlabel="minutes on one core of an Intel Xeon (model 207), float32",
        ylabel="top-1 accuracy, 5,000 validation images, %",
    )
    widths = sorted({width for width, _ in tried})
    colors = dict(zip(widths, (BLUE, *COLORS[2:]), strict=False))  # orange is what was published
    for (width, small), points in tried.items():
        minutes, accuracies, _ = zip(*points, strict=True)
        text = f"{width} channels{', first half on small images' * bool(small)}"
        style = {"ls": "--", "marker": "s", "mfc": "white"} if small else {"marker": "o"}
        beside = (-11, 6) if small else (5, -11)
        right.plot(minutes, accuracies, color=colors[width], label=text, **style)
        for x, y, epochs in points:
            right.annotate(f"{epochs}", (x, y), beside, textcoords="offset points", fontsize=8)
    right.text(0.02, 0.97, "numbers: epochs", transform=right.transAxes, va="top", fontsize=8)
    ticks = (5, 10, 20, 40, 80)
    right.set_xticks(ticks, map(str, ticks))
    right.minorticks_off()
    right.set_xlim(5, 120)
    left.legend(loc="lower right")
    right.legend(loc="lower right", title="recipe of fast", fontsize=8)
    return to_png(figure)


if __name__ == "__main__":
    runs = [path.parent for name in ("fast", "trials") for path in (DOCS / name).glob("*/run.json")]
    files.write_bytes(DOCS / "front.png", front_png(shipped(), trials(runs)))
