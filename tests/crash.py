"""Kill a training again and again: in the end its bits are those of one that was left alone.

``python tests/crash.py --kills 50`` reports how often it was killed, and where.
"""

from __future__ import annotations

import argparse
import collections
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "code"))

import crash_child
from processes import Process
from saved import digest

TRAIN = [
    *("train", "--preset", "quickstart", "--width", "2", "--batch-size", "16"),
    *("--valid-size", "32", "--epochs", "2", "--mixup-alpha", "0.2", "--dropout-stack2", "0.1"),
    *("--save-minutes", "0", "--optimizer", "adam"),
]
STEPS = 36
KILLED = -9
RANDOM = "SIGKILL at a random moment"
SIGTERM = "SIGTERM at a random moment"


def start(folder: Path, point: str = "", number: int = 0) -> Process:
    """A training process that dies by itself at a point, or not at all."""
    output = Path(tempfile.mkdtemp(dir=folder.parent), "output")
    arguments = [*TRAIN, "--save-dir", str(folder)]
    return Process(output, crash_child.run, point, number, arguments)


def kill_once(
    folder: Path, generator: np.random.Generator, place: tuple[str, int] | None
) -> tuple[str, int]:
    """Start the training and end it somewhere; gives the point and the exit code."""
    point = place[0] if place else str(generator.choice([*crash_child.POINTS, RANDOM, SIGTERM]))
    if point in (RANDOM, SIGTERM):
        process = start(folder)
        time.sleep(generator.uniform(1, 11))
        process.send(signal.SIGKILL if point == RANDOM else signal.SIGTERM)
    else:
        highest = {"in a step": STEPS, "in an evaluation": 2, "in the final export": 6}
        number = place[1] if place else generator.integers(1, highest.get(point, 12) + 1)
        process = start(folder, point, int(number))
    process.finish(0, KILLED, *((75, -15) if point == SIGTERM else ()))
    return point, process.code


def damage(folder: Path, generator: np.random.Generator) -> str | None:
    """Spoil the newest state if there is one before it; gives what was done."""
    newest, previous = folder / "state.npz", folder / "state.previous.npz"
    if not (newest.exists() and previous.exists()):
        return None
    data, place = bytearray(newest.read_bytes()), int(generator.integers(newest.stat().st_size))
    how = str(generator.choice(["a bit flipped", "cut short", "emptied"]))
    if how == "a bit flipped":
        data[place] ^= 1 << int(generator.integers(8))
    newest.write_bytes({"cut short": data[:place], "emptied": b""}.get(how, data))
    return f"newest state {how}"


def crash(
    count: int, seed: int = 0, kills_per_run: int = 8, places: Sequence[tuple[str, int]] = ()
) -> tuple[collections.Counter, collections.Counter, int]:
    """End trainings ``count`` times in all, letting each finish in the end.

    Args:
        count: of the ends.
        seed: of the places where they are ended, and of the damages to their states.
        kills_per_run: ends of a training before it may finish.
        places: the point of crash_child.py and the number of the first ends.

    Returns:
        How often a training was ended at each place, how often its newest state was damaged
        then, and the number of finished runs.

    Raises:
        AssertionError: a run that ended in other bits, or left a half-written file.
    """
    generator, given = np.random.default_rng(seed), iter(places)
    kills, damages, runs = collections.Counter(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as parent:
        left_alone = Path(parent, "left-alone")
        start(left_alone).finish()
        expected = digest(left_alone)
        while kills.total() < count:
            folder = Path(parent, f"run{runs}")
            for _ in range(min(kills_per_run, count - kills.total())):
                point, code = kill_once(folder, generator, next(given, None))
                if code == 0:
                    break
                kills[point] += 1
                if generator.random() < 0.25 and (how := damage(folder, generator)):
                    damages[how] += 1
            start(folder).finish()
            assert digest(folder) == expected, folder
            assert not list(folder.glob(".*.tmp")), "a half-written file"
            runs += 1
    return kills, damages, runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kills, damages, runs = crash(arguments.kills, arguments.seed)
    for place, number in [*kills.most_common(), *damages.most_common()]:
        print(f"{number:>4}  {place}")
    print(f"{kills.total()} kills in {runs} runs, all ended in the bits of a run left alone")
