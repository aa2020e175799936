"""The training loop: epochs of steps, with a state to go on from at any of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from machine import processor
from machine.errors import DivergedError, InterruptedRunError
from training.schedules import learning_rate
from training.step import TrainStep, epoch_order

IMAGES_PER_CALL = 320  # half a second of ResNet-20 on two cores: that soon it hears a signal
GPU_SPEEDUP = 20  # at least
_DIVERGED = (
    "{} became infinite or NaN at step {}; what was saved before is kept: start over with --fresh "
    "and a lower --learning-rate, some --warmup-epochs, or --precision float32"
)
_STOPPED = "stopped and saved after step {}; the same command goes on from there"


def steps_in_call(batch_size: int) -> int:
    """Return how many steps the training runs in one call."""
    images = IMAGES_PER_CALL * (GPU_SPEEDUP if processor.has_gpu() else 1)
    return max(1, images // batch_size)


@dataclasses.dataclass
class Progress:
    """Where a training stands. With the variables, it is all that is needed to go on exactly.

    Attributes:
        step: completed steps of the whole run.
        history: a row for each completed epoch.
        losses: of the steps of the epoch under way.
        right: right answers in the epoch under way.
        epoch_seconds: time spent in the steps of the epoch under way.
        seconds: time spent in the whole run until the last save.
    """

    step: int = 0
    history: list[dict] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    right: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0


class Training:
    """Runs a ``TrainStep`` over epochs, saves, and stops when it is told to.

    Args:
        step: the compiled step.
        images: number of training images.
        seed: of the order of the images.
        configs: the complete ``training_configs``.
        validate: gives the validation loss and accuracy, or None for each.
        run: a ``SharedRun`` to save to and go on from, or None.
        save_seconds: between saves within an epoch; there is one at the end of each anyway.
        stop: called after each call with the number of steps of the whole run so far; True, which
            all workers must hear together, saves and ends the training.
        on_epoch: see ``Model.train``.
        bar: show a progress bar of the whole run if there is a terminal.
    """

    def __init__(
        self,
        step: TrainStep,
        images: int,
        seed: int,
        configs: dict,
        validate: Callable[[], tuple[float | None, float | None]],
        run,
        save_seconds: float,
        stop: Callable[[int], bool],
        on_epoch: Callable[[dict, list[dict], int, float], None],
        bar: bool,
    ):
        self._step = step
        self._images = images
        self._seed = seed
        self._configs = configs
        self._steps_in_call = steps_in_call(configs["batch_size"])
        self._validate = validate
        self._run = run
        self._save_seconds = save_seconds
        self._stop = stop
        self._on_epoch = on_epoch
        self._bar = bar
        self._steps = images // configs["batch_size"]  # of an epoch
        self._order = None  # of the images in the epoch under way

    def run(self) -> Progress:
        """Train to the last epoch, from the run's state if there is one.

        Raises:
            DivergedError: a loss or weight that is not finite; the last state is kept.
            InterruptedRunError: ``stop`` said so; the state is saved.
        """
        progress, epochs = self._restore(), self._configs["epochs"]
        first, last = progress.step, epochs * self._steps
        began = self._clock = self._last_save = time.perf_counter()
        with tqdm(
            total=last,
            initial=first,
            unit=" steps",
            smoothing=0,  # the time left is that of the run so far, validation and all
            leave=False,
            disable=None if self._bar else True,
        ) as bar:
            while progress.step < last:
                bar.set_description(f"epoch {len(progress.history) + 1}/{epochs}", refresh=False)
                self._train_steps(progress)
                bar.set_postfix({"loss": f"{progress.losses[-1]:.4f}"}, refresh=False)
                bar.update(progress.step - bar.n)
                stopping = self._stop(progress.step)
                ended = progress.step % self._steps == 0
                if ended:
                    self._end_epoch(progress)
                due = time.perf_counter() - self._last_save > self._save_seconds
                if ended or stopping or due:
                    self._save(progress, stopping)
                if ended:
                    passed = time.perf_counter() - began
                    left = passed / (progress.step - first) * (last - progress.step)
                    self._on_epoch(progress.history[-1], progress.history, epochs, left)
                if stopping and progress.step < last:
                    raise InterruptedRunError(_STOPPED.format(progress.step))
        return progress

    def _train_steps(self, progress: Progress) -> None:
        """Run the steps of one call."""
        began = time.perf_counter()
        epoch, place = divmod(progress.step, self._steps)
        steps = range(progress.step, progress.step + min(self._steps_in_call, self._steps - place))
        if self._order is None or place == 0:
            self._order = tf.constant(epoch_order(self._seed, epoch, self._images))
        losses, right = self._step.run(
            self._order,
            place * self._configs["batch_size"],
            progress.step,
            [learning_rate(step, self._steps, self._configs) for step in steps],
        )
        finite = np.isfinite(losses)
        if not finite.all():
            raise DivergedError(_DIVERGED.format("the loss", steps[finite.argmin()] + 1))
        progress.losses += np.asarray(losses).tolist()
        progress.right += int(np.sum(right))
        progress.step += len(steps)
        progress.epoch_seconds += time.perf_counter() - began

    def _end_epoch(self, progress: Progress) -> None:
        """Add a row to the history."""
        images, epoch = self._steps * self._configs["batch_size"], len(progress.history)
        valid_loss, valid_accuracy = self._validate()
        progress.history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learning_rate(epoch * self._steps, self._steps, self._configs),
                "train_loss": float(np.mean(progress.losses)),
                # Against mixed labels, "right" would mean nothing.
                "train_accuracy": (
                    None if self._configs["mixup_alpha"] else progress.right / images
                ),
                "valid_loss": valid_loss,
                "valid_accuracy": valid_accuracy,
                "seconds": progress.epoch_seconds,
                "images_per_second": images / progress.epoch_seconds,
            }
        )
        progress.losses, progress.right, progress.epoch_seconds = [], 0, 0.0

    def _save(self, progress: Progress, stopping: bool) -> None:
        now = time.perf_counter()
        progress.seconds += now - self._clock
        self._clock = now
        if self._run is not None:
            arrays = {name: v.numpy() for name, v in self._step.variables.items()}
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise DivergedError(_DIVERGED.format("a weight", progress.step))
            # All workers stop at the same step: they can wait until it is saved.
            self._run.save_state(arrays, dataclasses.asdict(progress), wait=stopping)
        self._last_save = time.perf_counter()

    def _restore(self) -> Progress:
        state = None if self._run is None else self._run.load_state()
        if state is None:
            return Progress()
        arrays, progress = state
        for name, variable in self._step.variables.items():
            variable.assign(arrays[name])
        return Progress(**progress)
