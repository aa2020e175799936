"""The package itself: the whole loop of ``Model.train``, and ``Model.predict_prob``."""

from __future__ import annotations

from harness import Turns, noise, processor, serve

processor.prepare_tensorflow()

import Configure
from Model import Model


def train(precision: str, batch_size: int, images: int, turns: Turns) -> None:
    """Rounds of ``Model.train``, all of one call."""
    overrides = {"precision": precision, "batch_size": batch_size}
    model_configs, training_configs = Configure.configure("resnet20", overrides)
    end = images

    def stop(step: int) -> bool:
        nonlocal end
        if step * batch_size >= end:
            end += images
            turns()
        return False

    Model(model_configs).train(*noise(), training_configs, stop=stop)


def infer(precision: str, batch_size: int, images: int, turns: Turns) -> None:
    """Rounds of ``Model.predict_prob``, from uint8, in the package's own batches."""
    model_configs, _ = Configure.configure("resnet20", {})
    model, (x, _) = Model(model_configs, inference_precision=precision), noise(images)
    while True:
        model.predict_prob(x)
        turns()


if __name__ == "__main__":
    serve(train=train, infer=infer)
