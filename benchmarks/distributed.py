"""What several workers cost: two of one core each, beside one process of one core and of two.

``python benchmarks/distributed.py`` trains on CIFAR-10 in ``code/data`` (or ``--data-dir``) and
writes ``benchmarks/results/distributed.json`` and ``.md``. The variants take turns. On one machine
this shows the overhead of the exchange, not a speed-up: the cores are the same two.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import CODE, describe, machine, median, spread, table, write

# It leaves 10,000 images to train on. Each worker validates by itself, and the first step after it
# waits for the slowest: more images would make that wait count for more.
VALID_SIZE = 40_000
SENT = Path("/sys/class/net/lo/statistics/tx_bytes")  # over loopback since the machine started


def variants() -> dict[str, list[set[int]]]:
    """For each variant, the cores of each of its processes: the first two that this one may use."""
    one, two = sorted(os.sched_getaffinity(0))[:2]
    return {
        "one process, 1 core": [{one}],
        "one process, 2 cores": [{one, two}],
        "two workers, 1 core each": [{one}, {two}],
    }


def train(cores: list[set[int]], data_dir: Path, batch_size: int) -> tuple[float, float]:
    """Train two epochs with one process for each set of cores.

    Returns:
        images/s of the second epoch, and bytes over loopback in each of its steps.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in cores]
    hosts = ["{}:{}".format(*one.getsockname()) for one in sockets]
    for one in sockets:
        one.close()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, CODE / "main.py", "train", "--epochs", "2"),
            *("--valid-size", str(VALID_SIZE), "--batch-size", str(batch_size)),
            *("--data-dir", data_dir, "--save-dir", Path(folder, "run")),
        ]
        workers = []
        for index, own in enumerate(cores):
            environment = dict(os.environ)
            if len(cores) > 1:
                task = {"type": "worker", "index": index}
                environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})
            workers.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                    preexec_fn=lambda own=own: os.sched_setaffinity(0, own),
                )
            )
        counts = [int(SENT.read_text()) for line in workers[0].stdout if line.startswith("epoch ")]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise SystemExit("error: a worker failed")
        with open(Path(folder, "run", "history.csv"), newline="") as file:
            speed = float(list(csv.DictReader(file))[-1]["images_per_second"])
    steps = (50_000 - VALID_SIZE) // batch_size
    return speed, (counts[1] - counts[0]) / steps


def main() -> None:
    """Measure all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--data-dir", type=Path, default=CODE / "data")
    arguments = parser.parse_args()
    found = {name: {"images_per_second": [], "bytes_per_step": []} for name in variants()}
    for _ in range(arguments.rounds):
        for name, cores in variants().items():
            speed, sent = train(cores, arguments.data_dir, arguments.batch_size)
            found[name]["images_per_second"].append(speed)
            found[name]["bytes_per_step"].append(sent)
            print(f"{name}: {speed:.0f} images/s, {sent:,.0f} bytes a step", flush=True)
    rows = [
        f"{name} | {median(values):.0f} | {spread(values)} | "
        f"{statistics.median(values['bytes_per_step']):,.0f}"
        for name, values in found.items()
    ]
    lines = [
        "# Workers",
        "",
        f"`python benchmarks/distributed.py` on {describe(machine())}. Global batch "
        f"{arguments.batch_size}, median of {arguments.rounds} rounds, the variants in turn.",
        "",
        *table("what | images/s | lowest to highest | bytes over loopback a step", rows),
    ]
    results = {"machine": machine(), "batch_size": arguments.batch_size, "variants": found}
    write("distributed", results, lines)


if __name__ == "__main__":
    main()
