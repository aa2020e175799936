"""How fast this package trains and infers, beside stock Keras 3, PyTorch, and oneDNN's limit.

``python benchmarks/throughput.py`` writes ``benchmarks/results/throughput.json`` and ``.md``. Each
peer is a process; all that are compared are warmed up first and then take turns, one at a time, so
that a machine that grows slower grows slower for all. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
CODE = HERE.parent / "code"
sys.path.insert(0, str(CODE))

from machine import processor

BATCH_SIZES = (32, 128)
PRECISIONS = ("float32", "bfloat16")
ROUND_IMAGES = 3840  # in a round of training
TRAIN = {
    "package": ("package", "train"),
    "bare step": ("package", "step"),
    "Keras": ("keras", "train"),
    "PyTorch": ("pytorch", "train"),
    "convolutions": ("convolutions", "train"),
}
INFER_BATCHES = {"package": (1000,), "keras": (32, 500), "pytorch": (128, 500)}
LABELS = {
    "package": "this package, whole loop",
    "bare step": "its step alone, one fixed batch",
    "Keras": "stock Keras 3, `fit`",
    "PyTorch": "PyTorch, channels last",
    "convolutions": "limit: convolutions alone",
}


class Peer:
    """A peer's process and the seconds of its rounds."""

    def __init__(
        self, name: str, mode: str, precision: str, batch_size: int, steps: int, **environment: str
    ):
        self.seconds: list[float] = []
        self.memory = 0
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, HERE / "peer.py", name, mode, precision, str(batch_size), str(steps)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read("round")  # it is warm
        self.first = time.perf_counter() - self._began

    def take_turn(self) -> None:
        """One round."""
        self._tell("go")
        self.seconds.append(self._read("round"))

    def end(self) -> None:
        """Let it report its peak memory and end."""
        self._tell("end")
        self.memory = int(self._read("memory"))
        self._process.wait()

    def _tell(self, word):
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _read(self, what) -> float:
        for line in self._process.stdout:
            word, *values = line.split()
            if word == what:
                return float(values[0])
        raise SystemExit(f"error: {self._process.args[2:]} ended with {self._process.wait()}")


def compare(peers: dict[str, Peer], rounds: int, images: int) -> dict[str, dict]:
    """Let the peers take turns, and give each one's images/s: median, lowest and highest."""
    generator = random.Random(0)
    for _ in range(rounds):
        # In another order each time: who follows whom makes a difference.
        for peer in generator.sample(list(peers.values()), len(peers)):
            time.sleep(0.3)  # for the last one's threads to fall asleep
            peer.take_turn()
    results = {}
    for name, peer in peers.items():
        peer.end()
        speeds = sorted(images / seconds for seconds in peer.seconds)
        results[name] = {
            "images_per_second": statistics.median(speeds),
            "lowest": speeds[0],
            "highest": speeds[-1],
            "peak_memory_bytes": peer.memory,
            "rounds": rounds,
        }
    return results


def measure_training(batch_size: int, rounds: int) -> dict[str, dict]:
    """Speed and peak memory of training, by "peer, precision"."""
    steps = ROUND_IMAGES // batch_size
    peers = {
        f"{name}, {precision}": Peer(module, mode, precision, batch_size, steps)
        for name, (module, mode) in TRAIN.items()
        for precision in PRECISIONS
    }
    return compare(peers, rounds, steps * batch_size)


def measure_inference(rounds: int) -> dict[str, dict]:
    """Speed of inference on 10,000 images, by "peer, precision, batch size"."""
    peers = {
        f"{name}, {precision}, {batch_size}": Peer(name, "infer", precision, batch_size, 0)
        for name, batch_sizes in INFER_BATCHES.items()
        for batch_size in batch_sizes
        for precision in PRECISIONS
    }
    return compare(peers, rounds, 10_000)


def measure_overhead(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds a step of the whole loop and of the bare step, round by round."""
    results = {}
    for batch_size in BATCH_SIZES:
        for precision in PRECISIONS:
            peer = Peer("package", "overhead", precision, batch_size, 20)
            for _ in range(2 * rounds + 1):
                peer.take_turn()
            peer.end()
            times = [1000 * seconds / 20 for seconds in peer.seconds[1:]]
            results[f"batch {batch_size}, {precision}"] = {"loop": times[::2], "bare": times[1::2]}
    return results


def measure_starts(rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a process to its first step, and of whole short processes."""
    with tempfile.TemporaryDirectory() as folder:
        images, output = Path(folder, "images.npy"), Path(folder, "predictions.npy")
        script = "import numpy, sys; x = numpy.random.default_rng(0).integers(0, 256, (2000, 32, 32"
        script += ", 3), 'uint8'); numpy.save(sys.argv[1], x)"
        subprocess.run([sys.executable, "-c", script, images], check=True)
        predict = [CODE / "main.py", "predict", "--input", images, "--output", output]
        whole = {
            "import tensorflow": ["-c", "import tensorflow"],
            "python main.py predict, 2,000 images": predict,
        }
        seconds = {name: [] for name in whole}
        for _ in range(rounds):
            for name, arguments in whole.items():
                began = time.perf_counter()
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                subprocess.run([sys.executable, *arguments], check=True, **quiet)
                seconds[name].append(time.perf_counter() - began)
            for name in ("package", "Keras", "PyTorch"):
                peer = Peer(*TRAIN[name], "float32", 128, 1)
                peer.end()
                seconds.setdefault(f"first step, {LABELS[name]}", []).append(peer.first)
    return seconds


def machine() -> dict:
    """Where and with what this was measured."""
    names = [name for name in ("tensorflow", "keras", "numpy", "torch") if find_spec(name)]
    return {
        "processor": processor.processor()[0],
        "cores": processor.cores(),
        "versions": {name: metadata.version(name) for name in names},
    }


def describe(machine: dict) -> str:
    """``machine()`` in words."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cores']} cores of {machine['processor']}; {versions}"


def table(columns: str, rows: list[str]) -> list[str]:
    """Lines of a Markdown table of ``columns`` and ``rows`` such as "a | b | c"."""
    rule = "|---" * (columns.count("|") + 1) + "|"
    return [f"| {columns} |", rule, *(f"| {row} |" for row in rows), ""]


def _speed(result: dict) -> float:
    return result["images_per_second"]


def _rounds(results):
    return next(iter(results.values()))["rounds"]


def training_table(results: dict[str, dict], batch_size: int) -> list[str]:
    """Markdown lines."""
    rows = []
    keras = _speed(results["Keras, float32"])
    for name, label in LABELS.items():
        for precision in PRECISIONS:
            result = results[f"{name}, {precision}"]
            torch = _speed(results[f"PyTorch, {precision}"])
            limit = _speed(results[f"convolutions, {precision}"])
            speed = _speed(result)
            rows.append(
                f"{label} | {precision} | {speed:.0f} | {result['lowest']:.0f} to "
                f"{result['highest']:.0f} | {speed / keras:.2f} | {speed / torch:.2f} | "
                f"{100 * speed / limit:.0f} % | {result['peak_memory_bytes'] / 1e6:.0f}"
            )
    columns = (
        "what | precision | images/s | lowest to highest | against Keras float32 | against "
        "PyTorch, same precision | of the convolutions' limit | peak memory, MB"
    )
    title = f"## Training, batch {batch_size}, {_rounds(results)} rounds"
    return [title, "", *table(columns, rows)]


def inference_table(results: dict[str, dict]) -> list[str]:
    """Markdown lines."""

    def best(name):
        return max(_speed(r) for key, r in results.items() if key.startswith(f"{name},"))

    rows = []
    labels = {"package": "this package, `predict_prob`", "keras": "stock Keras 3, `predict`"}
    for key, result in results.items():
        name, precision, batch_size = key.split(", ")
        speed = _speed(result)
        rows.append(
            f"{labels.get(name, 'PyTorch, channels last')} | {precision} | {batch_size} | "
            f"{speed:.0f} | {result['lowest']:.0f} to {result['highest']:.0f} | "
            f"{speed / best('keras'):.2f} | {speed / best('pytorch'):.2f} | "
            f"{result['peak_memory_bytes'] / 1e6:.0f}"
        )
    columns = (
        "what | precision | batch | images/s | lowest to highest | against Keras' best | against "
        "PyTorch's best | peak memory, MB"
    )
    return [f"## Inference, 10,000 images, {_rounds(results)} rounds", "", *table(columns, rows)]


def overhead_table(results: dict[str, dict]) -> list[str]:
    """Markdown lines."""
    rows = []
    for name, times in results.items():
        loop, bare = statistics.median(times["loop"]), statistics.median(times["bare"])
        pairs = zip(times["loop"], times["bare"], strict=True)
        added = statistics.median(100 * (one / other - 1) for one, other in pairs)
        rows.append(f"{name} | {loop:.1f} | {bare:.1f} | {added:.1f} %")
    title = "## What input, augmentation, metrics and progress add to the bare step, "
    title += f"{len(next(iter(results.values()))['loop'])} rounds"
    columns = "what | whole loop, ms a step | bare step | added, median of the rounds"
    return [title, "", *table(columns, rows)]


def start_table(seconds: dict[str, list[float]]) -> list[str]:
    """Markdown lines."""
    rows = [f"{name} | {statistics.median(times):.1f}" for name, times in seconds.items()]
    title = f"## Start, {len(next(iter(seconds.values())))} rounds"
    return [title, "", *table("from the start of the process | seconds", rows)]


def report(results: dict) -> str:
    """All tables as Markdown."""
    lines = [
        "# Throughput",
        "",
        f"`make bench` on {describe(results['machine'])}. Medians; the peers take turns. ResNet-20 "
        "with flip, crop, mixup and dropout.",
        "",
    ]
    for batch_size in BATCH_SIZES:
        lines += training_table(results[f"training {batch_size}"], batch_size)
    lines += overhead_table(results["overhead"])
    lines += inference_table(results["inference"]) + start_table(results["starts"])
    return "\n".join(lines)


def main() -> None:
    """Measure all, or one part again, and write the tables."""
    parts = {
        **{f"training {size}": functools.partial(measure_training, size) for size in BATCH_SIZES},
        "overhead": lambda rounds: measure_overhead(8 * rounds),
        "inference": measure_inference,
        "starts": lambda rounds: measure_starts(3),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="8 times as many of overhead; of starts always 3"
    )
    parser.add_argument("--only", choices=parts, help="measure this part, keep the others")
    arguments = parser.parse_args()
    path, results = HERE / "results" / "throughput.json", {"machine": machine()}
    if arguments.only:
        results = json.loads(path.read_text())
        if results["machine"] != machine():
            raise SystemExit(f"error: {path} was measured on another machine; measure all again")
    for name in [arguments.only] if arguments.only else parts:
        results[name] = parts[name](arguments.rounds)
    path.write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
