"""The training loop: epochs of steps, with a state to go on from at any of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from machine.errors import DivergedError, InterruptedRunError
from training.optimizers import learning_rate
from training.step import TrainStep, epoch_order

IMAGES_PER_CALL = 320  # half a second of ResNet-20 on two cores: that soon it hears a signal
STEPS_BETWEEN_READINGS = 20
_DIVERGED = (
    "expected finite numbers, found {} not at step {}; what was saved before is kept: start over "
    "with --fresh and a lower --learning-rate, some --warmup-epochs, or --precision float32"
)
_STOPPED = "stopped and saved after step {}; the same command goes on from there"


def steps_in_call(batch_size: int) -> int:
    """How many steps the training runs in one call."""
    return max(1, IMAGES_PER_CALL // batch_size)


@dataclasses.dataclass
class Progress:
    """Where a training stands. With the variables, it is all that is needed to go on exactly.

    Attributes:
        step: completed steps of the whole run.
        history: a row for each completed epoch.
        losses: of the steps of the epoch under way.
        right: right answers in the epoch under way.
        epoch_seconds: time spent in the epoch under way.
        seconds: time spent in the whole run.
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
        variables: by name, all that the step changes.
        images: number of training images.
        seed: of the order of the images.
        configs: the complete ``training_configs``.
        validate: gives the validation loss and accuracy, or None for each.
        run: a ``Distribution.SharedRun`` to save to and go on from, or None.
        save_seconds: between saves within an epoch; there is one at the end of each anyway.
        stop: called after every few steps with the number of steps of the whole run so far; True
            saves and ends the training, with all workers at one step.
        on_epoch: called with each row of the history and the number of epochs.
        alone: no other process takes part.
        bar: show a progress bar if there is a terminal.
    """

    def __init__(
        self,
        step: TrainStep,
        variables: dict[str, tf.Variable],
        images: int,
        seed: int,
        configs: dict,
        validate: Callable[[], tuple[float | None, float | None]],
        run=None,
        save_seconds: float = 600.0,
        stop: Callable[[int], bool] = lambda step: False,
        on_epoch: Callable[[dict, int], None] = lambda row, epochs: None,
        alone: bool = True,
        bar: bool = True,
    ):
        self._step = step
        self._variables = variables
        self._images = images
        self._seed = seed
        self._configs = configs
        self._validate = validate
        self._run = run
        self._save_seconds = save_seconds
        self._stop = stop
        self._on_epoch = on_epoch
        self._alone = alone
        self._bar = bar
        self._told = False  # this process, to stop
        self._stopping = False  # all processes together
        self._steps = images // configs["batch_size"]
        self._steps_in_call = steps_in_call(configs["batch_size"])

    def run(self) -> Progress:
        """Train to the last epoch, from the run's state if there is one.

        Raises:
            DivergedError: a loss that is not finite; the last state is kept.
            InterruptedRunError: ``stop`` said so; the state is saved.
        """
        progress = self._restore()
        self._last_save = self._last_clock = time.perf_counter()
        epochs = self._configs["epochs"]
        while progress.step < epochs * self._steps:
            epoch = progress.step // self._steps
            self._clock(progress)  # the time of the last save is not this epoch's
            with tqdm(
                total=self._steps,
                initial=progress.step % self._steps,
                desc=f"epoch {epoch + 1}/{epochs}",
                leave=False,
                disable=None if self._bar else True,
            ) as bar:
                self._train_epoch(epoch, progress, bar)
            row = self._row(epoch, progress)
            row["valid_loss"], row["valid_accuracy"] = self._validate()
            self._clock(progress)
            progress.history.append(row)
            progress.losses, progress.right, progress.epoch_seconds = [], 0, 0.0
            self._save(progress)
            self._on_epoch(row, epochs)
            if self._stopping and len(progress.history) < epochs:
                raise InterruptedRunError(_STOPPED.format(progress.step))
        return progress

    def _train_epoch(self, epoch: int, progress: Progress, bar: tqdm) -> None:
        """Train the steps that the epoch still lacks."""
        order = tf.constant(epoch_order(self._seed, epoch, self._images))
        step, end, pending = progress.step, (epoch + 1) * self._steps, []
        while step < end:
            rates = [
                learning_rate(number, self._steps, self._configs)
                for number in range(step, min(step + self._steps_in_call, end))
            ]
            pending.append(
                self._step.run(
                    order,
                    step % self._steps * self._configs["batch_size"],
                    step,
                    rates,
                    self._told,
                )
            )
            step += len(rates)
            self._told |= self._stop(step)
            # Several workers find out together, from the results of their next call.
            self._stopping |= self._alone and self._told
            unread = step - progress.step
            if step == end or self._stopping or unread >= STEPS_BETWEEN_READINGS:
                self._read(pending, progress)
                bar.set_postfix(
                    {
                        "loss": f"{np.mean(progress.losses):.4f}",
                        "lr": f"{rates[-1]:.2e}",
                        "images/s": f"{self._rate(progress):.0f}",
                    },
                    refresh=False,
                )
                bar.update(unread)
                pending = []
                # After its last step an epoch still lacks its row: ``run`` saves it with that.
                if step < end:
                    self._save_if_due(progress)

    def _read(self, pending: list, progress: Progress) -> None:
        """Take the results of calls, which waits for them: on a GPU, once in many steps."""
        losses, right, stopping = map(np.concatenate, zip(*pending, strict=True))
        finite = np.isfinite(losses)
        if not finite.all():
            step = progress.step + int(finite.argmin()) + 1
            raise DivergedError(_DIVERGED.format("a loss that is", step))
        self._stopping |= bool(stopping.any())
        progress.losses += losses.tolist()
        progress.right += int(right.sum())
        progress.step += len(losses)
        progress.epoch_seconds += self._clock(progress)

    def _save_if_due(self, progress: Progress) -> None:
        if self._stopping:
            self._save(progress)
            raise InterruptedRunError(_STOPPED.format(progress.step))
        if time.perf_counter() - self._last_save > self._save_seconds:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        if self._run is not None:
            arrays = {name: variable.numpy() for name, variable in self._variables.items()}
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise DivergedError(_DIVERGED.format("weights that are", progress.step))
            # All workers stop at the same step: they can wait until it is saved.
            self._run.save_state(arrays, dataclasses.asdict(progress), wait=self._stopping)
        self._last_save = time.perf_counter()

    def _restore(self) -> Progress:
        state = None if self._run is None else self._run.load_state()
        if state is None:
            return Progress()
        arrays, progress = state
        for name, variable in self._variables.items():
            variable.assign(arrays[name])
        return Progress(**progress)

    def _row(self, epoch: int, progress: Progress) -> dict:
        # Against mixed labels, "right" would mean nothing.
        right = None if self._configs["mixup_alpha"] else progress.right
        images = self._steps * self._configs["batch_size"]
        return {
            "epoch": epoch + 1,
            "learning_rate": learning_rate(epoch * self._steps, self._steps, self._configs),
            "train_loss": float(np.mean(progress.losses)),
            "train_accuracy": None if right is None else right / images,
            "seconds": progress.epoch_seconds,
            "images_per_second": self._rate(progress),
        }

    def _rate(self, progress: Progress) -> float:
        return len(progress.losses) * self._configs["batch_size"] / progress.epoch_seconds

    def _clock(self, progress: Progress) -> float:
        """Seconds since the last call, added to the run's."""
        now = time.perf_counter()
        passed, self._last_clock = now - self._last_clock, now
        progress.seconds += passed
        return passed
