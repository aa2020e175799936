"""How fast this package trains and infers, beside Keras 3, Keras 2 and PyTorch: ``make bench``.

Writes ``benchmarks/results/throughput.json`` and ``.md``, after each part. All peers of a part live
at the same time, in about 8 GB of memory. Nothing else may run meanwhile.
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

PACKAGE, PYTORCH, LIMIT = "this package", "PyTorch, channels last", "limit: the convolutions alone"
KERAS, KERAS_ONEDNN = "Keras 3, as installed", "Keras 3, oneDNN on"
KERAS2, KERAS2_ONEDNN = "tf_keras (Keras 2), as installed", "tf_keras (Keras 2), oneDNN on"
# Of each peer: the module and what it is told, whether oneDNN is turned on for it (the package does
# so by itself), and the batches of its inference: which is faster depends on the processor, and the
# faster one counts.
PEERS = {
    PACKAGE: ("package", False, (1000,)),  # its own choice
    KERAS: ("fit keras", False, (32, 500)),
    KERAS_ONEDNN: ("fit keras", True, (32, 500)),
    KERAS2: ("fit tf_keras", False, ()),
    KERAS2_ONEDNN: ("fit tf_keras", True, (32, 500)),
    PYTORCH: ("pytorch", False, (128, 500)),
    LIMIT: ("convolutions", True, ()),
}
# Images of a round: whole steps, and whole calls of the package's loop.
PARTS = {"training 128": 768, "training 32": 640, "inference": 2000}


def measure(part: str, precision: str, rounds: int) -> dict[str, dict]:
    """Let all peers of a part take turns, and give each one's speed by its name."""
    peers, images = {}, PARTS[part]
    for name, (module, onednn, inference_batches) in PEERS.items():
        if part == "inference":
            for batch in inference_batches:
                peer = Peer(module, "infer", precision, batch, images, onednn)
                peers[f"{name}, batch {batch}"] = peer
        else:
            batch = int(part.split()[1])
            peers[name] = Peer(module, "train", precision, batch, images, onednn)
    return compare(peers, rounds)


def best(results: dict[str, dict], name: str) -> dict:
    """The result of a peer; of its inference, that with its faster batch."""
    return max((result for key, result in results.items() if key.startswith(name)), key=median)


def report(results: dict) -> list[str]:
    """All tables, as lines of Markdown."""
    rows, details = [], []
    for part in PARTS:
        for precision, peers in results.get(part, {}).items():
            package = best(peers, PACKAGE)
            others = (best(peers, name) for name in (KERAS, PYTORCH, KERAS2_ONEDNN))
            ratios = [f"{ratio(package, other):.2f}" for other in others]
            rounds = len(package["images_per_second"])
            what = f"{part}, {precision} ({rounds} rounds)"
            cells = [what, f"{median(package):.0f}", spread(package), *ratios]
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
        "The peers take turns; each speed is the median of its rounds, and each ratio the median "
        "of the rounds' ratios, so not always that of the medians. Inference: each peer's better "
        "batch.",
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
