"""``main.py`` in a process that kills itself: ``crash_child.py POINT NUMBER ARGUMENT...``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import main
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


def draw_few_images() -> None:
    """A data set that is drawn in a moment."""
    x, y, x_test, y_test, x_private = shapes.load()
    few = x[:320], y[:320], x_test[:20], y_test[:20], x_private[:20]
    shapes.load = lambda: few


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
    from machine import files
    from runs import folder as Checkpoint
    from runs import metrics as report
    from training import loop
    from training.step import TrainStep

    if point == "during a write":
        encode = Checkpoint.encode_state
        kill_at(_HalfWritten, "write", number, after=True)
        Checkpoint.encode_state = lambda *arguments: _HalfWritten(encode(*arguments))
        files.writing = _writing_in_halves(files.writing)
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
            (Checkpoint, "save_weights"),
            (report, "history_csv"),
            (report, "curves_png"),
            (Checkpoint, "write_record"),
        )[number % 4]
        kill_at(owner, name, 1, after=number % 8 >= 4)


class _HalfWritten(bytes):
    """A state of which one half is written before the other."""

    def write(self, file) -> None:
        file.write(self[: len(self) // 2])
        file.flush()


def _writing_in_halves(writing):
    import contextlib

    class File:
        def __init__(self, file):
            self._file = file

        def write(self, data):
            if isinstance(data, _HalfWritten):
                data.write(self._file)
                data = data[len(data) // 2 :]
            self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

    @contextlib.contextmanager
    def in_halves(path):
        with writing(path) as file:
            yield File(file)

    return in_halves


if __name__ == "__main__":
    draw_few_images()
    if sys.argv[1]:
        arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(main.main(sys.argv[3:]))
