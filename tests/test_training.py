"""Training.py: stopped anywhere and gone on with, a run ends in the same bits."""

import itertools
import json

import numpy as np
import pytest
import tiny

import Checkpoint
from Errors import DivergedError, InterruptedRunError
from Model import Model
from Report import HISTORY_COLUMNS, history_digest
from TrainStep import TrainStep

X, Y = tiny.images(44)
X_VALID, Y_VALID = tiny.images(20, seed=1)
STEPS = 5  # in an epoch of 44 images in batches of 8


class MemoryRun:
    """A run's folder without a disk."""

    def __init__(self):
        self.saved = []

    def save_state(self, arrays, progress, wait):
        self.saved.append(({k: np.array(v) for k, v in arrays.items()}, json.dumps(progress)))

    def load_state(self):
        if not self.saved:
            return None
        arrays, progress = self.saved[-1]
        return arrays, json.loads(progress)


def train(run=None, stop=lambda: False, precision="float32", **changes):
    """Digests of the weights and of the history of a run."""
    configs = tiny.training_configs(epochs=2, **changes)
    model = Model(tiny.model_configs(precision=precision))
    progress = model.train(X, Y, configs, X_VALID, Y_VALID, run=run, stop=stop)
    weights = Checkpoint.weights_digest(model.network, model.mean)
    return weights, history_digest(progress.history)


VARIANTS = [
    {"optimizer": "adam"},
    {"optimizer": "rmsprop", "momentum": 0.9},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    {"optimizer": "adam", "ema_decay": 0.9, "crop_mode": "reflect", "label_smoothing": 0.1},
    {"optimizer": "adam", "precision": "bfloat16"},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_run_repeats_and_survives_a_stop_to_the_bit(changes):
    whole = train(**changes)
    assert train(**changes) == whole
    run, steps = MemoryRun(), itertools.count(1)
    with pytest.raises(InterruptedRunError, match="saved after step 7;"):
        train(run, stop=lambda: next(steps) == 7, **changes)
    assert train(run, **changes) == whole


def test_every_step_is_a_place_to_stop():
    whole = train()
    for last in (1, 4, 5, 6, 9):
        run, steps = MemoryRun(), itertools.count(1)
        with pytest.raises(InterruptedRunError):
            train(run, stop=lambda: next(steps) >= last)  # noqa: B023
        assert train(run) == whole, f"stopped at step {last}"


def test_a_stop_after_the_last_step_comes_too_late():
    run, steps = MemoryRun(), itertools.count(1)
    assert train(run, stop=lambda: next(steps) >= 2 * STEPS) == train()


def test_another_seed_is_another_run():
    model = Model(tiny.model_configs(seed=1))
    model.train(X, Y, tiny.training_configs())
    assert Checkpoint.weights_digest(model.network, model.mean) != train()[0]


def test_a_state_is_saved_at_the_end_of_each_epoch_and_when_it_is_due():
    run = MemoryRun()
    train(run)
    assert [json.loads(progress)["step"] for _, progress in run.saved] == [STEPS, 2 * STEPS]
    often = MemoryRun()
    Model(tiny.model_configs()).train(
        X, Y, tiny.training_configs(batch_size=2), run=often, save_seconds=0
    )
    assert [json.loads(progress)["step"] for _, progress in often.saved] == [20, 22, 42, 44]


def test_the_history_has_the_columns_of_the_report():
    progress = Model(tiny.model_configs()).train(X, Y, tiny.training_configs(), X_VALID, Y_VALID)
    assert [set(row) for row in progress.history] == [set(HISTORY_COLUMNS)] * 2
    assert progress.seconds >= sum(row["seconds"] for row in progress.history)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_state(monkeypatch, loss):
    step = TrainStep.run

    def diverge_at_step_7(self, order, position, number, *more):
        mean_loss, *others = step(self, order, position, number, *more)
        return (loss if number == 6 else mean_loss), *others

    monkeypatch.setattr(TrainStep, "run", diverge_at_step_7)
    run = MemoryRun()
    with pytest.raises(DivergedError, match=r"found a loss that is not at step 7;"):
        train(run)
    assert [json.loads(progress)["step"] for _, progress in run.saved] == [STEPS]


def test_weights_that_are_not_finite_are_never_saved(monkeypatch):
    step = TrainStep.run

    def spoil_at_step_7(self, order, position, number, *more):
        result = step(self, order, position, number, *more)
        if number == 6:
            self._network.weights[0].assign(self._network.weights[0] * np.nan)
        return result

    monkeypatch.setattr(TrainStep, "run", spoil_at_step_7)
    run, steps = MemoryRun(), itertools.count(1)
    with pytest.raises(DivergedError, match=r"found weights that are not at step 7;"):
        train(run, stop=lambda: next(steps) == 7)
    assert [json.loads(progress)["step"] for _, progress in run.saved] == [STEPS]
