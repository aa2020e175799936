"""Kill a training again and again: in the end its bits are those of one that was left alone.

``python tests/crash.py --kills 50`` reports how often it was killed, and where.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHILD = Path(__file__).resolve().parent / "crash_child.py"
TRAIN = [
    *("train", "--preset", "quickstart", "--width", "2", "--batch-size", "16"),
    *("--valid-size", "32", "--epochs", "2", "--mixup-alpha", "0.2", "--dropout-stack2", "0.1"),
    *("--ema-decay", "0.9", "--save-minutes", "0"),
]
STEPS = 36
KILLED = -9


def start(folder: Path, point: str = "", number: int = 0) -> subprocess.Popen:
    """A training process that dies by itself at a point, or not at all."""
    return subprocess.Popen(
        [sys.executable, CHILD, point, str(number), *TRAIN, "--save-dir", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def digest(folder: Path) -> tuple[str, str]:
    """Digests of the weights and of the history of a finished run."""
    record = json.loads((folder / "run.json").read_text())
    return record["weights_sha256"], record["history_sha256"]


def kill_once(folder: Path, generator: np.random.Generator) -> tuple[str, int]:
    """Start the training and kill it somewhere; gives the place and the exit code."""
    from crash_child import POINTS

    point = str(generator.choice([*POINTS, "at a random moment"]))
    if point != "at a random moment":
        highest = {"in a step": STEPS, "in an evaluation": 2, "in the final export": 8}
        process = start(folder, point, int(generator.integers(1, highest.get(point, 12) + 1)))
    else:
        process = start(folder)
        time.sleep(generator.uniform(2, 12))
        process.kill()
    _, errors = process.communicate(timeout=600)
    assert process.returncode in (0, KILLED), errors
    return point, process.returncode


def crash(kills: int, seed: int = 0, kills_per_run: int = 8) -> collections.Counter:
    """Kill trainings ``kills`` times in all, letting each finish in the end.

    Returns:
        How often a training was killed at each place, and the finished runs.

    Raises:
        AssertionError: a run that ended in other bits, or left a half-written file.
    """
    generator = np.random.default_rng(seed)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as parent:
        left_alone = Path(parent, "left-alone")
        first = start(left_alone)
        _, errors = first.communicate(timeout=600)
        assert first.returncode == 0, errors
        expected = digest(left_alone)
        while sum(counts.values()) - counts["runs"] < kills:
            folder = Path(parent, f"run{counts['runs']}")
            for _ in range(kills_per_run):
                point, code = kill_once(folder, generator)
                if code == 0:
                    break
                counts[point] += 1
                if sum(counts.values()) - counts["runs"] == kills:
                    break
            last = start(folder)
            _, errors = last.communicate(timeout=600)
            assert last.returncode == 0, errors
            assert digest(folder) == expected, folder
            assert not list(folder.glob(".*.tmp")), "a half-written file"
            counts["runs"] += 1
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = crash(arguments.kills, arguments.seed)
    runs = result.pop("runs")
    for place, count in result.most_common():
        print(f"{count:>4} killed {place}")
    print(f"{sum(result.values())} kills in {runs} runs, all ended in the bits of a run left alone")
