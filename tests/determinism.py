"""Train about 40 steps twice, each time from the start, and compare all weights bit by bit.

``python tests/determinism.py --preset quickstart`` says so or ends with 8.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

CODE = Path(__file__).resolve().parent.parent / "code"
sys.path.insert(0, str(CODE))

import Configure
import DataLoader
from machine import processor
from machine.errors import DeterminismError, InterruptedRunError, UserError

STEPS = 40  # or a few more, to the end of a call


def compare(preset: str, data_dir: Path) -> str:
    """Train twice.

    Returns:
        A line with the digest of the weights.

    Raises:
        DeterminismError: the weights differ.
    """
    model_configs, training_configs = Configure.configure(preset, {})
    data = DataLoader.load_data(data_dir, training_configs["dataset"])
    processor.prepare_tensorflow()
    from Model import Model
    from runs.weights import weights_digest

    def train() -> tuple[str, int]:
        model, last = Model(model_configs), 0

        def stop(step: int) -> bool:
            nonlocal last
            last = step
            return step >= STEPS

        with contextlib.suppress(InterruptedRunError):
            model.train(data.x_train, data.y_train, training_configs, stop=stop)
        return weights_digest(model.network, model.mean), last

    (first, steps), (second, _) = train(), train()
    if first != second:
        raise DeterminismError(
            f"expected equal weights after {steps} steps from the same seed, found {first} and "
            f"{second}: this machine does not repeat its own results"
        )
    return f"{steps} steps, twice: equal weights {first}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=tuple(Configure.PRESETS), default="quickstart")
    parser.add_argument("--data-dir", type=Path, default=CODE / "data")
    arguments = parser.parse_args()
    try:
        print(compare(arguments.preset, arguments.data_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
