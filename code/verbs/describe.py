"""Say what the network is: its layers, parameters and multiply-adds, and a picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import Configure
from machine import files, processor


def describe(*, preset: str, overrides: dict[str, Any], output: Path | None = None) -> None:
    """Print Keras's summary of a network, and draw the network block by block.

    Args:
        preset: a key of ``Configure.PRESETS``.
        overrides: values by key of ``Configure.MODEL_KEYS``.
        output: the PNG to draw it into; None for no picture.

    Raises:
        UserError: see ``machine.errors``.
    """
    configs, _ = Configure.configure(preset, overrides)
    processor.prepare_tensorflow()
    from Network import resnet_v1
    from study.network import multiply_adds, network_png

    dropout = configs["dropout_stack2"], configs["dropout_stack3"]
    network = resnet_v1(depth=configs["depth"], width=configs["width"], dropout=dropout)
    network.summary(print_fn=lambda line, **_: print(line))
    print(f"{network.name}: {network.count_params():,} parameters")
    print(f"{multiply_adds(network):,} multiply-adds an image (convolutions and the dense layer)")
    if output is not None:
        files.write_bytes(output, network_png(network))
        print(f"picture: {output}")
