"""``main.py`` in a process that kills itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import types

import main
from machine import files
from sources import shapes

POINTS = (
    "during a write",
    "before a flush",
    "before a rename",
    "after a rename",
    "in a step",
    "in an evaluation",
    "in the final export",
)


def kill_at(owner, name: str, number: int, after: bool = False, by=signal.SIGKILL) -> None:
    """Send this process a signal at the call ``number`` of ``owner.name``, before or after it."""
    function, calls = getattr(owner, name), [0]

    def counted(*arguments, **options):
        calls[0] += 1
        if calls[0] == number and not after:
            os.kill(os.getpid(), by)
        result = function(*arguments, **options)
        if calls[0] == number and after:
            os.kill(os.getpid(), by)
        return result

    setattr(owner, name, counted)


def arm(point: str, number: int) -> None:
    """Make the process die at a point of POINTS."""
    import Model
    from runs import plots, record, weights
    from training import loop
    from training.step import TrainStep

    if point == "during a write":
        _write_half(number)
    elif point == "before a flush":
        kill_at(os, "fsync", number)
    elif point == "before a rename":
        kill_at(os, "replace", number)
    elif point == "after a rename":
        kill_at(os, "replace", number, after=True)
    elif point == "in a step":
        loop.IMAGES_PER_CALL = 1
        kill_at(TrainStep, "run", number)
    elif point == "in an evaluation":
        kill_at(Model.Model, "evaluate", number)
    elif point == "in the final export":
        owner, name = (
            (weights, "save_weights"),
            (plots, "curves_png"),
            (record, "write_record"),
        )[number % 3]
        kill_at(owner, name, 1, after=number % 2 == 1)


def _write_half(number: int) -> None:
    """Die in the write ``number`` of a file, with half of it written."""
    writing, writes = files.writing, itertools.count(1)

    @contextlib.contextmanager
    def in_halves(path):
        with writing(path) as file:

            def write(data):
                if next(writes) == number:
                    file.write(data[: len(data) // 2])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                file.write(data)

            yield types.SimpleNamespace(write=write, flush=file.flush, fileno=file.fileno)

    files.writing = in_halves


def run(point: str, number: int, arguments: list[str]) -> None:
    """Run ``main.py`` on a data set that is drawn in a moment, and die at a point, if any."""
    shapes.SPLIT_SIZES = 320, 20, 20
    if point:
        arm(point, number)
    sys.exit(main.main(arguments))
