"""What every benchmark shares: processes that take turns, medians, and tables.

A peer is one of ``peers/`` in a process of its own. All peers that are compared are warmed up first
and then work in turn, one at a time: a machine that grows slower grows slower for all.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
CODE = HERE.parent / "code"
sys.path.insert(0, str(CODE))

from machine import processor


class Peer:
    """A peer's process, seen from the benchmark.

    Args:
        name: module of ``peers/``, and what it is told first, if anything.
        mode: "train" or "infer".
        precision: "float32" or "bfloat16".
        batch_size: images of a batch.
        images: images of a round.
        onednn: turn oneDNN on; otherwise TensorFlow decides as it is installed.
    """

    def __init__(
        self, name: str, mode: str, precision: str, batch_size: int, images: int, onednn=False
    ):
        self.images = images
        environment = dict(os.environ, KERAS_BACKEND="tensorflow")
        environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
        if onednn:
            environment["TF_ENABLE_ONEDNN_OPTS"] = "1"
        arguments = [mode, precision, str(batch_size), str(images)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", *f"peers.{name}".split(), *arguments],
            cwd=HERE,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._read("round")  # it is warm

    def take_turn(self) -> float:
        """Let it work for a round, and return its images/s."""
        self._tell("go")
        return self.images / self._read("round")

    def end(self) -> int:
        """End it, and return its peak memory in bytes."""
        self._tell("end")
        memory = int(self._read("memory"))
        self._process.wait()
        return memory

    def _tell(self, word):
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _read(self, what) -> float:
        for line in self._process.stdout:
            word, *values = line.split()
            if word == what:
                return float(values[0])
        self._errors.seek(0)
        print(self._errors.read(), file=sys.stderr)
        raise SystemExit(f"error: {self._process.args[2:]} ended with {self._process.wait()}")


class Turns:
    """A peer's own side: says how long each round took, and waits for the next one."""

    def __init__(self):
        self._began = time.perf_counter()

    def __call__(self) -> None:
        """End a round: report its seconds and wait. After the last one, end the process."""
        print(f"round {time.perf_counter() - self._began}", flush=True)
        if sys.stdin.readline().strip() != "go":
            kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(f"memory {1024 * kibibytes}", flush=True)
            os._exit(0)  # nothing is left to do, and some libraries take long to say so
        self._began = time.perf_counter()


def serve(**modes) -> None:
    """Run a peer: the function of ``modes`` that the command line names.

    Args:
        modes: ``function(precision, batch_size, images, turns)``, which works forever and calls
            ``turns`` after as many images.
    """
    mode, precision, batch_size, images = sys.argv[1:]
    modes[mode](precision, int(batch_size), int(images), Turns())


def noise(count: int = 50_000):
    """As many images and labels as CIFAR-10 has, of noise: how fast it goes does not depend on it.

    Returns:
        uint8 ``[count, 32, 32, 3]`` and int32 ``[count]``.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return x, generator.integers(0, 10, count).astype(np.int32)


def compare(peers: dict[str, Peer], rounds: int) -> dict[str, dict]:
    """Let the peers take turns.

    Returns:
        for each, "images_per_second" of each round and "peak_memory_bytes".
    """
    generator, speeds = random.Random(0), {name: [] for name in peers}
    for _ in range(rounds):
        # In another order each time: who follows whom makes a difference.
        for name in generator.sample(list(peers), len(peers)):
            time.sleep(0.3)  # for the last one's threads to fall asleep
            speeds[name].append(peers[name].take_turn())
    return {
        name: {"images_per_second": speeds[name], "peak_memory_bytes": peer.end()}
        for name, peer in peers.items()
    }


def median(result: dict) -> float:
    """Images/s of the median round."""
    return statistics.median(result["images_per_second"])


def spread(result: dict) -> str:
    """Images/s of the slowest and of the fastest round."""
    return f"{min(result['images_per_second']):.0f} to {max(result['images_per_second']):.0f}"


def ratio(one: dict, other: dict) -> float:
    """How many times as fast one peer is as the other: the median over the rounds they shared."""
    pairs = zip(one["images_per_second"], other["images_per_second"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def precisions() -> tuple[str, ...]:
    """The precisions to measure: bfloat16 only where "auto" takes it."""
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    processor.prepare_tensorflow()
    chosen, _ = processor.choose_precision("auto")
    return ("float32",) if chosen == "float32" else ("float32", chosen)


def machine() -> dict:
    """Where and with what this is measured."""
    names = ("tensorflow", "keras", "tf_keras", "numpy", "torch")
    return {
        "processor": processor.processor().name,
        "cores": processor.cores(),
        "versions": {n: metadata.version(n) for n in names if importlib.util.find_spec(n)},
    }


def describe(machine: dict) -> str:
    """``machine()`` in words."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cores']} cores of {machine['processor']}; {versions}"


def table(columns: str, rows: list[str]) -> list[str]:
    """Lines of a Markdown table of ``columns`` and ``rows`` such as "a | b | c"."""
    rule = "|---" * (columns.count("|") + 1) + "|"
    return [f"| {columns} |", rule, *(f"| {row} |" for row in rows), ""]


def write(name: str, results: dict, lines: list[str]) -> None:
    """Write ``results/NAME.json``, and ``lines`` as ``results/NAME.md``."""
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".md").write_text("\n".join(lines))
