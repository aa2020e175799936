"""training/loop.py: stopped anywhere and gone on with, a run ends in the same bits."""

import contextlib
import json

import numpy as np
import pytest
import tiny

from machine.errors import DivergedError, InterruptedRunError
from Model import Model
from runs.metrics import HISTORY_COLUMNS, history_digest
from runs.weights import weights_digest
from training import loop
from training.step import TrainStep

X, Y = tiny.images(44)
X_VALID, Y_VALID = tiny.images(20, seed=1)
STEPS = 5  # in an epoch of 44 images in batches of 8


@pytest.fixture(autouse=True)
def one_step_in_a_call(monkeypatch):
    monkeypatch.setattr(loop, "IMAGES_PER_CALL", 8)


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


def train(run=None, stop=lambda step: False, precision="float32", **changes):
    """Digests of the weights and of the history of a run."""
    configs = tiny.training_configs(epochs=2, **changes)
    model = Model(tiny.model_configs(precision=precision))
    progress = model.train(X, Y, configs, X_VALID, Y_VALID, run=run, stop=stop)
    weights = weights_digest(model.network, model.mean)
    return weights, history_digest(progress.history)


AVERAGED = {"optimizer": "adam", "ema_decay": 0.9, "crop_mode": "reflect", "label_smoothing": 0.1}


@pytest.fixture(scope="module")
def whole():
    """Of a run that nothing stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "IMAGES_PER_CALL", 8)
        return train()


@pytest.mark.parametrize(
    "changes",
    [
        AVERAGED,
        {"optimizer": "muon", "momentum": 0.9, "schedule": "linear", "cutout": 8, "shift": 0.1},
        {"optimizer": "sgd", "momentum": 0.9, "precision": "bfloat16"},
    ],
    ids=["average", "muon", "bfloat16"],
)
def test_a_run_survives_a_stop_to_the_bit(changes):
    run = MemoryRun()
    with pytest.raises(InterruptedRunError, match="saved after step 7;"):
        train(run, stop=lambda step: step == 7, **changes)
    assert train(run, **changes) == train(**changes)


@pytest.mark.parametrize("last", [4, 5, 9])
def test_every_step_is_a_place_to_stop(last, whole):
    run = MemoryRun()
    with pytest.raises(InterruptedRunError, match=f"saved after step {last};"):
        train(run, stop=lambda step: step >= last)
    assert train(run) == whole


def test_a_stop_after_the_last_step_comes_too_late(whole):
    assert train(MemoryRun(), stop=lambda step: step == 2 * STEPS) == whole


def test_steps_that_share_a_call_give_the_bits_of_steps_that_do_not(monkeypatch, whole):
    calls = []
    for images in (24, 320):
        monkeypatch.setattr(loop, "IMAGES_PER_CALL", images)
        assert train(stop=lambda step: bool(calls.append(step))) == whole
    assert calls == [3, 5, 8, 10, 5, 10]


def test_a_run_goes_on_with_other_calls_than_it_began_with(monkeypatch, whole):
    run = MemoryRun()
    with pytest.raises(InterruptedRunError, match="saved after step 1;"):
        train(run, stop=lambda step: True)
    monkeypatch.setattr(loop, "IMAGES_PER_CALL", 24)
    assert train(run) == whole


def test_another_seed_is_another_run(whole):
    model = Model(tiny.model_configs(seed=1))
    model.train(X, Y, tiny.training_configs())
    assert weights_digest(model.network, model.mean) != whole[0]


def test_a_state_is_saved_at_the_end_of_each_epoch_and_when_it_is_due():
    steps = {}
    for seconds in (600, 0):
        run = MemoryRun()
        configs = tiny.training_configs(batch_size=2)  # 4 of the 22 steps of an epoch in a call
        Model(tiny.model_configs()).train(X, Y, configs, run=run, save_seconds=seconds)
        steps[seconds] = [json.loads(progress)["step"] for _, progress in run.saved]
    assert steps == {
        600: [22, 44],
        0: [4, 8, 12, 16, 20, 22, 26, 30, 34, 38, 42, 44],
    }


def test_after_each_epoch_its_row_and_the_seconds_left_are_told_once_the_state_is_saved():
    told, run = [], MemoryRun()

    def on_epoch(row, history, epochs, seconds_left):
        assert row == history[-1]
        told.append((len(run.saved), row["epoch"], len(history), epochs, seconds_left))

    configs = tiny.training_configs(epochs=3)
    model = Model(tiny.model_configs())
    progress = model.train(X, Y, configs, run=run, on_epoch=on_epoch)
    assert [numbers[:4] for numbers in told] == [(1, 1, 1, 3), (2, 2, 2, 3), (3, 3, 3, 3)]
    first, second, last = (numbers[4] for numbers in told)
    assert first > second > last == 0
    assert second < progress.seconds


def test_the_rows_of_a_resumed_run_are_told_once():
    run, told = MemoryRun(), []
    for stop in (lambda step: step == 7, lambda step: False):
        model = Model(tiny.model_configs())
        with contextlib.suppress(InterruptedRunError):
            model.train(
                *(X, Y, tiny.training_configs(epochs=3)),
                run=run,
                stop=stop,
                on_epoch=lambda row, history, epochs, left: told.append(
                    (row["epoch"], len(history))
                ),
            )
    assert told == [(1, 1), (2, 2), (3, 3)]


def test_the_history_has_the_columns_of_the_report():
    progress = Model(tiny.model_configs()).train(X, Y, tiny.training_configs(), X_VALID, Y_VALID)
    assert [set(row) for row in progress.history] == [set(HISTORY_COLUMNS)] * 2
    assert progress.seconds >= sum(row["seconds"] for row in progress.history)


@pytest.mark.parametrize(("loss", "images"), [(np.nan, 8), (np.inf, 40)])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_state(monkeypatch, loss, images):
    step = TrainStep.run

    def diverge_at_step_7(self, order, position, number, *more):
        losses, *others = step(self, order, position, number, *more)
        return np.where(number + np.arange(len(losses)) == 6, loss, losses), *others

    monkeypatch.setattr(loop, "IMAGES_PER_CALL", images)
    monkeypatch.setattr(TrainStep, "run", diverge_at_step_7)
    run = MemoryRun()
    with pytest.raises(DivergedError, match="the loss became infinite or NaN at step 7;"):
        train(run)
    assert [json.loads(progress)["step"] for _, progress in run.saved] == [STEPS]


def test_weights_that_are_not_finite_are_never_saved(monkeypatch):
    step = TrainStep.run

    def spoil_at_step_7(self, order, position, number, *more):
        result = step(self, order, position, number, *more)
        if number == 6:
            kernel = self.variables["network/0"]
            kernel.assign(kernel * np.nan)
        return result

    monkeypatch.setattr(TrainStep, "run", spoil_at_step_7)
    run = MemoryRun()
    with pytest.raises(DivergedError, match="a weight became infinite or NaN at step 7;"):
        train(run, stop=lambda step: step == 7)
    assert [json.loads(progress)["step"] for _, progress in run.saved] == [STEPS]
