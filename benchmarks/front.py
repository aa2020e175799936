"""Draw what accuracy costs: the runs in ``code/saved_models`` beside published ones.

Writes ``docs/front.png``. Computation is six times the multiply-adds of an image (two operations
each; backward takes twice as much as forward), times the images that were trained on.
"""

from __future__ import annotations

import json

from harness import CODE, HERE
from machine import files, processor
from runs.metrics import TEST_FILE
from runs.plots import new_figure, plain_matplotlib, to_png
from runs.record import read_record

# Name, PFLOP of the training, accuracy on CIFAR-10's test images in percent.
PUBLISHED = (
    ("He et al., ResNet-20", 2.0, 91.25),  # 64,000 steps of 128 images
    ("Keras example, ResNet-20 (best epoch on test)", 2.4, 92.16),  # 200 epochs of 50,000
    ("airbench94, with flips", 0.29, 94.0),
    ("airbench95, with flips", 1.4, 95.0),
    ("airbench96, with flips", 3.1, 96.0),
    ("ResNet-18", 32.3, 96.0),
    ("WRN-28-10", 315.0, 96.1),  # 5.24 billion multiply-adds, 200 epochs of 50,000
    ("WRN-28-10, AutoAugment", 315.0, 97.4),
)
CLAIM = 97.47


def own_runs() -> list[tuple[str, float, float]]:
    """Name, PFLOP and accuracy in percent of every shipped run that was tested."""
    processor.prepare_tensorflow()
    from Network import resnet_v1
    from study.network import multiply_adds

    runs = []
    for path in sorted((CODE / "saved_models").glob(f"*/{TEST_FILE}")):
        measured = json.loads(path.read_text())
        if measured["dataset"] != "cifar10":
            continue
        record = read_record(path.parent)
        model, configs = record["model_configs"], record["training_configs"]
        network = resnet_v1(depth=model["depth"], width=model["width"])
        images = configs["epochs"] * (50_000 - configs["valid_size"])
        operations = 6 * multiply_adds(network) * images
        name = path.parent.name + ", with flips" * measured["test_time_flip"]
        name += " and shifts" * measured.get("test_time_shift", False)
        runs.append((name, operations / 1e15, 100 * measured["accuracy"]))
    return runs


@plain_matplotlib()
def front_png(own: list[tuple[str, float, float]]) -> bytes:
    """Draw accuracy over computation."""
    figure = new_figure(9, 5, "CIFAR-10 test accuracy over the computation of the training")
    axes = figure.add_subplot(xlabel="PFLOP of the training", ylabel="top-1 accuracy, %")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.axhline(CLAIM, color="black", lw=1, ls=":")
    axes.text(0.2, CLAIM + 0.1, "the report's claim, not reproduced", fontsize=8)
    for runs, color, marker, label in (
        (own, "#0072B2", "o", "this package, measured"),
        (PUBLISHED, "#D55E00", "^", "published"),
    ):
        _, operations, accuracies = zip(*runs, strict=True)
        axes.plot(operations, accuracies, marker, color=color, label=label)
        for name, x, y in runs:
            axes.annotate(name, (x, y), (6, -9), textcoords="offset points", fontsize=8)
    axes.set(xlim=(0.18, 2500), ylim=(89, 98.2))
    axes.legend(loc="lower right")
    return to_png(figure)


if __name__ == "__main__":
    files.write_bytes(HERE.parent / "docs" / "front.png", front_png(own_runs()))
