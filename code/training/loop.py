"""The training loop: epochs of steps, with a state to go on from at any of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import Configure
from machine import processor
from machine.errors import DivergedError, InterruptedRunError
from training.schedules import learning_rate, work
from training.step import TrainStep, epoch_order

# That soon a signal is heard: 0.4 (Zen 4, bfloat16) to 1.5 seconds (Zen 1) of ResNet-20 on 2 cores.
IMAGES_PER_CALL = 320
GPU_SPEEDUP = 20  # a GPU is at least so many times as fast as two cores
_DIVERGED = (
    "{} became infinite or NaN at step {}; what was saved before is kept: start over (train "
    "--fresh) with a lower learning rate, some epochs of warm-up, or in float32"
)


@dataclasses.dataclass
class Progress:
    """Where a training stands. With the variables, it is all that is needed to go on exactly.

    Attributes:
        step: completed steps of the whole run.
        history: a row for each completed epoch.
        losses: of the steps of the epoch under way.
        right: number of correct answers in the epoch under way.
        epoch_seconds: time spent in the steps of the epoch under way.
        seconds: time spent in the whole run until the last save.
    """

    step: int = 0
    history: list[dict] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    right: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass
class Training:
    """Runs a ``TrainStep`` over epochs, saves, and stops when it is told to: see ``Model.train``.

    ``validate`` gives the validation loss and accuracy, or None for each; ``shared_run`` is a
    ``SharedRun`` or None; all workers must hear ``stop`` together.
    """

    step: TrainStep
    num_images: int  # for training
    seed: int  # of their order
    configs: dict
    validate: Callable[[], tuple[float | None, float | None]]
    shared_run: Any
    save_seconds: float
    stop: Callable[[int], bool]
    on_epoch: Callable[[dict, list[dict], int, float], None]
    bar: bool  # show the progress of the whole run if there is a terminal

    def __post_init__(self):
        images_per_call = IMAGES_PER_CALL * (GPU_SPEEDUP if processor.count_gpus() else 1)
        self._steps_in_call = max(1, images_per_call // self.configs["batch_size"])
        self._steps = self.num_images // self.configs["batch_size"]  # of an epoch
        self._order = None  # of the images in the epoch under way

    def run(self) -> Progress:
        """Train to the last epoch, from the run's state if there is one; see ``Model.train``."""
        progress, epochs = self._restore(), self.configs["epochs"]
        first, last = progress.step, epochs * self._steps
        began = self._clock = self._last_save = time.perf_counter()

        def done(step: int) -> float:
            """The work of the steps before, in steps on whole images."""
            return work(step / self._steps, self.configs) * self._steps

        with tqdm(
            total=round(done(last)),
            initial=round(done(first)),
            unit=" full-size steps" if Configure.small_epochs(self.configs) else " steps",
            smoothing=0,  # the time left is that of the run so far, validation and all
            leave=False,
            disable=None if self.bar else True,
        ) as bar:
            while progress.step < last:
                bar.set_description(f"epoch {len(progress.history) + 1}/{epochs}", refresh=False)
                self._train_steps(progress)
                bar.set_postfix({"loss": f"{progress.losses[-1]:.4f}"}, refresh=False)
                bar.update(round(done(progress.step)) - bar.n)
                stopping = self.stop(progress.step)
                ended = progress.step % self._steps == 0
                if ended:
                    self._end_epoch(progress)
                due = time.perf_counter() - self._last_save > self.save_seconds
                if ended or stopping or due:
                    self._save(progress, stopping)
                if ended:
                    now = done(progress.step)
                    pace = (time.perf_counter() - began) / (now - done(first))
                    left = pace * (done(last) - now)
                    self.on_epoch(progress.history[-1], progress.history, epochs, left)
                if stopping and progress.step < last:
                    raise InterruptedRunError(
                        f"stopped and saved after step {progress.step}; the same command goes on "
                        "from there, without --fresh"
                    )
        return progress

    def _train_steps(self, progress: Progress) -> None:
        """Run the steps of one call."""
        began = time.perf_counter()
        epoch, place = divmod(progress.step, self._steps)
        steps = range(progress.step, progress.step + min(self._steps_in_call, self._steps - place))
        if self._order is None or place == 0:
            self._order = tf.constant(epoch_order(self.seed, epoch, self.num_images))
        losses, correct = self.step.run(
            self._order,
            place * self.configs["batch_size"],
            progress.step,
            [learning_rate(step, self._steps, self.configs) for step in steps],
            small=epoch < Configure.small_epochs(self.configs),
        )
        finite = np.isfinite(losses)
        if not finite.all():
            raise DivergedError(_DIVERGED.format("the loss", steps[finite.argmin()] + 1))
        progress.losses += np.asarray(losses).tolist()
        progress.right += int(np.sum(correct))
        progress.step += len(steps)
        progress.epoch_seconds += time.perf_counter() - began

    def _end_epoch(self, progress: Progress) -> None:
        """Add a row to the history."""
        images, epoch = self._steps * self.configs["batch_size"], len(progress.history)
        valid_loss, valid_accuracy = self.validate()
        progress.history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learning_rate(epoch * self._steps, self._steps, self.configs),
                "train_loss": float(np.mean(progress.losses)),
                # Against mixed labels, "correct" would mean nothing.
                "train_accuracy": (
                    None if self.configs["mixup_alpha"] else progress.right / images
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
        if self.shared_run is not None:
            arrays = {name: v.numpy() for name, v in self.step.variables.items()}
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise DivergedError(_DIVERGED.format("a weight", progress.step))
            # All workers stop at the same step: they can wait until it is saved.
            self.shared_run.save_state(arrays, dataclasses.asdict(progress), wait=stopping)
        self._last_save = time.perf_counter()

    def _restore(self) -> Progress:
        state = None if self.shared_run is None else self.shared_run.load_state()
        if state is None:
            return Progress()
        arrays, progress = state
        for name, variable in self.step.variables.items():
            variable.assign(arrays[name])
        return Progress(**progress)
