"""What else was tried for speed: other ways to run the same step, and other batches of inference.

``python benchmarks/alternatives.py`` writes ``benchmarks/results/alternatives.json`` and ``.md``.
Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json

from throughput import BATCH_SIZES, HERE, PRECISIONS, Peer, compare, describe, machine, table

IMAGES = 1280  # in a round of training
STEP_WAYS = {
    "as it is": ("step", {}),
    "compiled by XLA": ("xla", {}),
    "one step in a call": ("one", {}),
    "one thread within an operation": ("step", {"TF_NUM_INTRAOP_THREADS": "1"}),
    "one operation at a time": ("step", {"TF_NUM_INTEROP_THREADS": "1"}),
    "the calling thread computes too": (
        "step",
        {"TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD": "1"},
    ),
    "a replica on each core, whole loop": ("replicas", {"TF_NUM_INTRAOP_THREADS": "1"}),
    "memory in huge pages": ("step", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    "memory of TensorFlow's BFC allocator": ("step", {"TF_CPU_ALLOCATOR_USE_BFC": "1"}),
    "every oneDNN primitive kept": ("step", {"TF_MKL_OPTIMIZE_PRIMITIVE_MEMUSE": "0"}),
}
INFERENCE_BATCHES = (1000, 50, 100, 250, 500, 2000)


def measure_steps(batch_size: int, rounds: int, ways: dict[str, tuple]) -> dict[str, dict]:
    """Speed of the bare step, by "way, precision"."""
    peers = {
        f"{name}, {precision}": Peer(
            "package", mode, precision, batch_size, IMAGES // batch_size, **environment
        )
        for name, (mode, environment) in ways.items()
        for precision in PRECISIONS
    }
    return compare(peers, rounds, IMAGES)


def measure_inference(rounds: int) -> dict[str, dict]:
    """Speed of ``predict_prob``, by "batch, precision"."""
    peers = {
        f"{batch_size} images, {precision}": Peer("package", "infer", precision, batch_size, 0)
        for batch_size in INFERENCE_BATCHES
        for precision in PRECISIONS
    }
    return compare(peers, rounds, 10_000)


def rows(results: dict[str, dict]) -> list[str]:
    """Of a table: a row for each way, the first of which is the one that is used."""
    ways = dict.fromkeys(key.rpartition(", ")[0] for key in results)
    used = next(iter(ways))
    lines = []
    for way in ways:
        cells = [way]
        for precision in PRECISIONS:
            speed = results[f"{way}, {precision}"]["images_per_second"]
            ratio = speed / results[f"{used}, {precision}"]["images_per_second"]
            cells += [f"{speed:.0f}", f"{ratio:.2f}"]
        lines.append(" | ".join(cells))
    return lines


def report(results: dict) -> str:
    """The tables as Markdown."""
    columns = " | ".join(f"{precision}, images/s | ratio" for precision in PRECISIONS)
    lines = [
        "# Alternatives",
        "",
        f"`python benchmarks/alternatives.py` on {describe(results['machine'])}. Median of "
        f"{results['rounds']} rounds, in turn; the first row is what the package does.",
        "",
    ]
    for batch_size in BATCH_SIZES:
        lines += [f"## The bare step, batch {batch_size}", ""]
        lines += table(f"way | {columns}", rows(results[f"steps {batch_size}"]))
    if "inference" in results:
        lines += ["## Inference, 10,000 images, two batches at a time", ""]
        lines += table(f"batch | {columns}", rows(results["inference"]))
    return "\n".join(lines)


def main() -> None:
    """Measure all the ways or one of them, and write the tables."""
    used, *others = STEP_WAYS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=others, help="one way, into a table of its own")
    arguments = parser.parse_args()
    rounds, ways = arguments.rounds, STEP_WAYS
    if arguments.only:
        ways = {name: STEP_WAYS[name] for name in (used, arguments.only)}
    results = {"machine": machine(), "rounds": rounds}
    for batch_size in BATCH_SIZES:
        results[f"steps {batch_size}"] = measure_steps(batch_size, rounds, ways)
    if not arguments.only:
        results["inference"] = measure_inference(rounds)
    name = arguments.only or "alternatives"
    path = HERE / "results" / f"{name.replace(' ', '_')}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
