"""The network as numbers and as a picture (the report's figure 2), read off a Keras model."""

from __future__ import annotations

import math
from typing import Any

from runs.plots import new_figure, plain_matplotlib, to_png

MOST_BLOCKS = 4  # of a stack; more are drawn as the first and "x n"
BLUE, GREEN, GREY, ORANGE = "#CFE3F2", "#CDE9DF", "#ECECEC", "#F8DCC4"
LINE: dict[str, Any] = {"color": "black", "lw": 1.2, "zorder": 0}  # under the boxes


def multiply_adds(network: Any) -> int:
    """Multiply-adds of one image: those of all convolutions and dense layers.

    Args:
        network: ``keras.Model`` of ``Network.resnet_v1``.
    """
    total = 0
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            positions = layer.output.shape[1:-1]
            total += math.prod(positions) * math.prod(layer.kernel.shape)
    return total


@plain_matplotlib()
def network_png(network: Any) -> bytes:
    """Draw the network: a column a stack, with shapes and the places of the dropouts.

    Args:
        network: ``keras.Model`` of ``Network.resnet_v1``.

    Returns:
        PNG bytes.
    """
    columns = _columns(network)
    heights = [sum(part["height"] for part in column) for column in columns]
    tallest = max(heights)
    parameters, operations = network.count_params(), multiply_adds(network) / 1e6
    title = f"{network.name}: {parameters:,} parameters, {operations:.1f} M multiply-adds an image"
    figure = new_figure(2.7 * len(columns), 0.42 * tallest + 1.2, title)
    axes = figure.add_subplot(xlim=(-0.8, 1.75 * len(columns) - 0.95), ylim=(-tallest - 0.2, 0.2))
    axes.set_axis_off()
    for i, column in enumerate(columns):
        x, y = 1.75 * i, 0.0
        for part in column:
            part["draw"](axes, x, y)
            y -= part["height"]
        if i + 1 < len(columns):  # from the end of this column to the top of the next
            end, middle, right = y + 0.35, x + 0.93, x + 1.75
            path = [x, x, middle, middle, right], [end, y - 0.05, y - 0.05, 0.1, 0.1]
            axes.plot(*path, **LINE)
            _arrow(axes, right, 0.1, -0.3)
    return to_png(figure)


def _columns(network) -> list[list[dict]]:
    """The parts of the picture: input and stem, three stacks, and what follows them."""
    layers = {layer.name: layer for layer in network.layers}
    dropouts = [layer for layer in network.layers if type(layer).__name__ == "Dropout"]
    stem, logits = layers["stem_conv"], layers["logits"]
    pool = next(x for x in network.layers if type(x).__name__ == "GlobalAveragePooling2D")
    columns = [
        [
            _box(f"image\n{_shape(network.input)}", GREY, arrow=False),
            _box(f"{_convolution(stem)}\nbatch norm, ReLU", BLUE),
            _note(_shape(stem.output)),
        ]
    ]
    for stack in (1, 2, 3):
        firsts = [x for x in layers if x.startswith(f"stack{stack}_") and x.endswith("_conv1")]
        blocks = [name.removesuffix("_conv1") for name in firsts]
        column = [_note(f"stack {stack}", bold=True)]
        folded = len(blocks) > MOST_BLOCKS
        for number, block in enumerate(blocks[:2] if folded else blocks, start=1):
            text = f"block {number}"
            if folded and number == 2:
                text = f"2 to {len(blocks)} (× {len(blocks) - 1})"
            parts = (layers.get(f"{block}_{part}") for part in ("conv1", "conv2", "shortcut"))
            column.append(_block(text, *parts))
        column.append(_note(_shape(layers[f"{blocks[-1]}_conv2"].output)))
        if stack > 1:
            rate = dropouts[stack - 2].rate
            color, text = (ORANGE, f"dropout {100 * rate:g} %") if rate else (GREY, "no dropout")
            column.append(_box(text, color))
        columns.append(column)
    columns.append(
        [
            _box(f"global average pool\n{_shape(pool.output)}", GREEN),
            _box(f"dense {logits.units}\nlogits", BLUE),
            _box("softmax\nprobabilities", GREY),
        ]
    )
    return columns


def _shape(tensor) -> str:
    return " × ".join(str(size) for size in tensor.shape[1:])


def _convolution(layer) -> str:
    height, width = layer.kernel_size
    stride = f", stride {layer.strides[0]}" if layer.strides[0] > 1 else ""
    return f"{height} × {width} conv, {layer.filters}{stride}"


def _arrow(axes, x, top, bottom):
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **LINE}
    axes.annotate("", (x, bottom), (x, top), arrowprops=arrow)


def _draw_box(axes, x, y, text, color, height=0.9):
    from matplotlib.patches import FancyBboxPatch

    corner = (x - 0.5, y - height)
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(corner, 1.0, height, style, fc=color, ec="#444444", lw=0.8))
    axes.text(x, y - height / 2, text, ha="center", va="center", fontsize=8)


def _box(text: str, color: str, arrow: bool = True) -> dict:
    def draw(axes, x, y):
        if arrow:
            _arrow(axes, x, y, y - 0.3)
        _draw_box(axes, x, y - 0.3, text, color)

    return {"height": 1.3, "draw": draw}


def _note(text: str, bold: bool = False) -> dict:
    def draw(axes, x, y):
        axes.plot([x, x], [y + 0.1, y - 0.7], **LINE)
        box = {"fc": "white", "ec": "none", "pad": 1.5}
        weight = "bold" if bold else "normal"
        axes.text(x, y - 0.3, text, ha="center", va="center", fontsize=8, weight=weight, bbox=box)

    return {"height": 0.7, "draw": draw}


def _block(name: str, first, second, shortcut) -> dict:
    """A residual block: two convolutions, and the shortcut around them on the right."""

    def draw(axes, x, y):
        _arrow(axes, x, y, y - 0.45)
        side, foot = x + 0.68, y - 3.05
        axes.plot(
            [x, side, side, x], [y - 0.2, y - 0.2, foot, foot], **{**LINE, "color": "#777777"}
        )
        axes.text(x - 0.06, y - 0.2, name, fontsize=8, va="center", ha="right")
        _draw_box(axes, x, y - 0.45, f"{_convolution(first)}\nbatch norm, ReLU", BLUE)
        _arrow(axes, x, y - 1.35, y - 1.7)
        _draw_box(axes, x, y - 1.7, f"{_convolution(second)}\nbatch norm", BLUE)
        axes.plot([x, x], [y - 2.6, y - 3.35], **LINE)
        text = "identity" if shortcut is None else _convolution(shortcut)
        box = {"fc": "white" if shortcut is None else BLUE, "ec": "none", "pad": 1.5}
        at = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 7, "bbox": box}
        axes.text(side, y - 1.6, text, **at)
        _draw_box(axes, x, y - 2.85, "add, ReLU", GREEN, height=0.4)

    return {"height": 3.35, "draw": draw}
