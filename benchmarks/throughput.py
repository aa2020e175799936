"""How fast this package trains and infers, beside Keras 3, Keras 2 and PyTorch: ``make bench``.

Writes ``benchmarks/results/throughput.json`` and ``.md``, after each part. It takes about a quarter
of an hour on two slow cores; nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json

from harness import (
    HERE,
    Peer,
    compare,
    describe,
    machine,
    median,
    precisions,
    ratio,
    spread,
    table,
    write,
)

PACKAGE, KERAS, PYTORCH = "this package", "Keras 3, as installed", "PyTorch, channels last"
KERAS2, LIMIT = "tf_keras (Keras 2), oneDNN on", "limit: the convolutions alone"
MODULES = {
    PACKAGE: ("package", False),  # it turns oneDNN on by itself
    KERAS: ("keras3", False),
    KERAS2: ("tf_keras", True),
    PYTORCH: ("pytorch", False),
    LIMIT: ("convolutions", True),
}
# Whole steps, and whole calls of the package's loop.
ROUND_IMAGES = {32: 640, 128: 768}
INFERENCE_IMAGES = 4000
# Which is faster depends on the processor: the better one counts. The package has its own.
INFERENCE_BATCHES = {PACKAGE: (1000,), KERAS: (32, 500), PYTORCH: (128, 500)}
PARTS = ("training 128", "training 32", "inference")


def measure(part: str, precision: str, rounds: int) -> dict[str, dict]:
    """Let all peers of a part take turns, and give each one's speed by its name."""
    if part == "inference":
        peers = {
            f"{name}, batch {batch}": Peer(
                MODULES[name][0], "infer", precision, batch, INFERENCE_IMAGES
            )
            for name, batches in INFERENCE_BATCHES.items()
            for batch in batches
        }
    else:
        batch = int(part.split()[1])
        peers = {
            name: Peer(module, "train", precision, batch, ROUND_IMAGES[batch], onednn)
            for name, (module, onednn) in MODULES.items()
        }
    return compare(peers, rounds)


def best(results: dict[str, dict], name: str) -> dict | None:
    """The result of a peer with its best batch, or None if it was not measured."""
    found = [result for key, result in results.items() if key.startswith(name)]
    return max(found, key=median, default=None)


def report(results: dict) -> list[str]:
    """All tables, as lines of Markdown."""
    rows, details = [], []
    for part in PARTS:
        for precision, peers in results.get(part, {}).items():
            package = best(peers, PACKAGE)
            ratios = [
                "" if other is None else f"{ratio(package, other):.2f}"
                for other in (best(peers, name) for name in (KERAS, PYTORCH, KERAS2))
            ]
            cells = [f"{part}, {precision}", f"{median(package):.0f}", spread(package), *ratios]
            rows.append(" | ".join(cells))
            details += [f"## {part.capitalize()}, {precision}", ""]
            details += table(
                "what | images/s | lowest to highest | this package / it | peak memory, MB",
                [
                    f"{name} | {median(result):.0f} | {spread(result)} | "
                    f"{ratio(package, result):.2f} | {result['peak_memory_bytes'] / 1e6:.0f}"
                    for name, result in peers.items()
                ],
            )
    return [
        "# Throughput",
        "",
        f"`make bench` on {describe(results['machine'])}.",
        "",
        "ResNet-20 v1 at 32 x 32; training is the whole loop, with flip, crop, mixup and dropout. "
        "The peers take turns; each number is the median of the rounds, a ratio that of the "
        "rounds' ratios. Inference: each peer's better batch.",
        "",
        *table(
            "what | this package, images/s | lowest to highest | / Keras 3, as installed | "
            "/ PyTorch | / tf_keras with oneDNN",
            rows,
        ),
        *details,
    ]


def main() -> None:
    """Measure all parts, or one again, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer (default: 5)")
    parser.add_argument("--only", choices=PARTS, help="part to measure; the others are kept")
    arguments = parser.parse_args()
    results = {"machine": machine()}
    if arguments.only:
        path = HERE / "results" / "throughput.json"
        kept = json.loads(path.read_text()) if path.exists() else results
        if kept["machine"] != results["machine"]:
            raise SystemExit(f"error: {path} was measured on another machine; measure all again")
        results = kept
    chosen = precisions()
    print(f"{describe(results['machine'])}: {' and '.join(chosen)}", flush=True)
    for part in [arguments.only] if arguments.only else PARTS:
        results[part] = {}
        for precision in chosen:
            print(f"{part}, {precision} ...", flush=True)
            results[part][precision] = measure(part, precision, arguments.rounds)
            write("throughput", results, report(results))
    print("\n".join(report(results)))


if __name__ == "__main__":
    main()
