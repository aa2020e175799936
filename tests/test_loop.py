"""training/loop.py: stopped anywhere and gone on with, a run ends in the same bits."""

import contextlib
import io
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tqdm import tqdm

from machine.errors import DivergedError, InterruptedRunError
from Model import Model
from runs.metrics import HISTORY_COLUMNS, history_digest
from runs.weights import weights_digest
from training import loop

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
        self.waited = []  # for each save, if all workers are to wait for it

    def save_state(self, arrays, progress, wait):
        self.waited.append(wait)
        self.saved.append(({k: np.array(v) for k, v in arrays.items()}, json.dumps(progress)))

    def load_state(self):
        if not self.saved:
            return None
        arrays, progress = self.saved[-1]
        return arrays, json.loads(progress)

    def steps(self):
        return [json.loads(progress)["step"] for _, progress in self.saved]


# With a network


def train(run=None, stop=lambda step: False, precision="float32", **changes):
    """Digests of the weights and of the history of a run."""
    configs = tiny.training_configs(epochs=2, **changes)
    model = Model(tiny.model_configs(precision=precision))
    progress = model.train(X, Y, configs, X_VALID, Y_VALID, run=run, stop=stop)
    assert [set(row) for row in progress.history] == [set(HISTORY_COLUMNS)] * 2
    weights = weights_digest(model.network, model.mean)
    return weights, history_digest(progress.history)


def test_a_run_survives_a_stop_to_the_bit(monkeypatch):
    changes = {
        "optimizer": "adam",
        "schedule": "linear",
        "precision": "bfloat16",
        "crop_mode": "reflect",
        "shift": 0.1,
        "rotation": 10.0,
        "colour_jitter": 0.1,
        "pca_jitter": 0.1,
        "pixel_noise": 0.1,
        "cutout": 8,
        "label_smoothing": 0.1,
        "small_share": 0.5,
    }
    run = MemoryRun()
    with pytest.raises(InterruptedRunError, match="saved after step 7;"):
        train(run, stop=lambda step: step == 7, **changes)
    monkeypatch.setattr(loop, "IMAGES_PER_CALL", 24)  # nor does it matter how a call is cut
    assert train(run, **changes) == train(**changes)


# Without


class Step:
    """Stands for ``TrainStep``: its one weight is another one after any other way of going on."""

    def __init__(self):
        self.variables = {"weight": tf.Variable(0.0)}
        self.losses = {}  # by step, what the loss is to be
        self.small = []  # of each call, if the images were shrunk

    def run(self, order, position, step, rates, small):
        self.small.append(small)
        losses = []
        for number, rate in enumerate(rates):
            batch = order[position + 8 * number :][:8].numpy()
            weight = self.variables["weight"]
            weight.assign(0.9 * weight + rate * float(np.dot(batch, range(1, 9))))
            losses.append(self.losses.get(step + number, float(weight)))
        return np.array(losses), np.full(len(rates), 3.0)


def go_on(run=None, stop=lambda step: False, step=None, save_seconds=600, tell=None, **changes):
    """The last weight and the history of a training without a network."""
    step, told = step or Step(), tell or (lambda *_: None)
    configs = tiny.training_configs(**{"epochs": 2, "mixup_alpha": 0.0, **changes})
    training = loop.Training(
        *(step, len(X), 0, configs, lambda: (0.5, 0.25), run, save_seconds, stop, told),
        bar=False,
    )
    history = training.run().history
    return float(step.variables["weight"]), history_digest(history)


@pytest.fixture(scope="module")
def whole():
    """Of a run that nothing stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "IMAGES_PER_CALL", 8)
        return go_on()


@pytest.mark.parametrize("last", range(1, 2 * STEPS))
def test_every_step_is_a_place_to_stop(last, whole):
    run = MemoryRun()
    with pytest.raises(InterruptedRunError, match=f"saved after step {last};"):
        go_on(run, stop=lambda step: step >= last)
    assert run.waited.pop() is True and not any(run.waited)
    assert go_on(run) == whole


def test_a_stop_after_the_last_step_comes_too_late(whole):
    assert go_on(MemoryRun(), stop=lambda step: step == 2 * STEPS) == whole


def test_steps_that_share_a_call_give_the_bits_of_steps_that_do_not(monkeypatch, whole):
    calls = []
    for images in (24, 320):
        monkeypatch.setattr(loop, "IMAGES_PER_CALL", images)
        assert go_on(stop=lambda step: bool(calls.append(step))) == whole
    assert calls == [3, 5, 8, 10, 5, 10]


def test_the_first_share_of_the_epochs_trains_on_small_images():
    step = Step()
    go_on(step=step, epochs=5, small_share=0.4)
    assert step.small == [True] * 2 * STEPS + [False] * 3 * STEPS


def test_the_progress_bar_counts_the_work(monkeypatch):
    bars = []

    def bar(**options):
        bars.append(tqdm(**{**options, "disable": False, "file": io.StringIO(), "leave": True}))
        return bars[-1]

    monkeypatch.setattr(loop, "tqdm", bar)
    run = MemoryRun()
    with contextlib.suppress(InterruptedRunError):
        go_on(run, stop=lambda step: step == 2 * STEPS, epochs=5, small_share=0.4)
    go_on(run, epochs=5, small_share=0.4)
    small, whole = round(2 * STEPS * 9 / 16), round(2 * STEPS * 9 / 16 + 3 * STEPS)
    assert [(b.initial, b.n, b.total) for b in bars] == [(0, small, whole), (small, whole, whole)]


def test_a_state_is_saved_at_the_end_of_each_epoch_and_when_it_is_due(monkeypatch):
    monkeypatch.setattr(loop, "IMAGES_PER_CALL", 16)
    steps = {}
    for seconds in (600, 0):
        run = MemoryRun()
        go_on(run, save_seconds=seconds)
        steps[seconds] = run.steps()
    assert steps == {600: [5, 10], 0: [2, 4, 5, 7, 9, 10]}


def test_after_each_epoch_its_row_and_the_seconds_left_are_told_once_the_state_is_saved():
    told, run = [], MemoryRun()

    def tell(row, history, epochs, seconds_left):
        assert row == history[-1]
        told.append((len(run.saved), row["epoch"], len(history), epochs, seconds_left))

    go_on(run, tell=tell, epochs=3)
    assert [numbers[:4] for numbers in told] == [(1, 1, 1, 3), (2, 2, 2, 3), (3, 3, 3, 3)]
    first, second, last = (numbers[4] for numbers in told)
    assert min(first, second) > 0 == last


def test_the_rows_of_a_resumed_run_are_told_once():
    run, told = MemoryRun(), []
    for last in (7, 0):
        with contextlib.suppress(InterruptedRunError):
            go_on(
                run,
                stop=lambda step, last=last: step == last,
                tell=lambda row, history, epochs, left: told.append((row["epoch"], len(history))),
                epochs=3,
            )
    assert told == [(1, 1), (2, 2), (3, 3)]


def test_the_seconds_of_an_epoch_are_part_of_those_of_the_run():
    run = MemoryRun()
    go_on(run)
    progress = json.loads(run.saved[-1][1])
    assert progress["seconds"] >= sum(row["seconds"] for row in progress["history"]) > 0


@pytest.mark.parametrize(("loss", "images"), [(np.nan, 8), (np.inf, 40)])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_state(monkeypatch, loss, images):
    monkeypatch.setattr(loop, "IMAGES_PER_CALL", images)
    run, step = MemoryRun(), Step()
    step.losses[6] = loss
    with pytest.raises(DivergedError, match="the loss became infinite or NaN at step 7;"):
        go_on(run, step=step)
    assert run.steps() == [STEPS]


def test_weights_that_are_not_finite_are_never_saved():
    run, step = MemoryRun(), Step()
    step.losses = dict.fromkeys(range(2 * STEPS), 1.0)

    def spoil(number):
        if number == 7:
            step.variables["weight"].assign(np.nan)
        return number == 7

    with pytest.raises(DivergedError, match="a weight became infinite or NaN at step 7;"):
        go_on(run, stop=spoil, step=step)
    assert run.steps() == [STEPS]
