"""The page of a study: Markdown in which every number comes out of its results."""

from __future__ import annotations

import re
from collections.abc import Sequence

from runs.metrics import describe_views
from study.report import DATASET

NONE = "–"


def markdown(results: dict, pictures: dict[str, str]) -> str:
    """Write the page.

    Args:
        results: of ``study.tables.tabulate``.
        pictures: text by the file name of each picture beside the page.
    """
    rows = [row for row in results["rows"] if row["runs"]]
    parts = [f"# Study: {results['study']}", results["text"]]
    if results["finished"] < results["expected"]:
        parts.append(
            f"**Partial: {results['finished']} of {results['expected']} runs are finished.**"
        )
    if results.get("failed"):
        failed = "; ".join(f"{name}: {why}" for name, why in results["failed"].items())
        parts.append(f"**Failed, and in no number: {failed}**")
    if not rows:
        return "\n\n".join(parts) + "\n"
    epochs = _all(rows, "epochs")
    parts.append(
        f"Data: {results['dataset']}, {results['test_images']} test images"
        f"{describe_views(results['how'])}, measured at the last epoch of a run in float32. "
        "Accuracy is top-1, in percent: the mean over the seeds, ± the standard deviation, and "
        "each seed's own; for one seed, Wilson's 95 % interval."
    )
    if any(row["difference"] for row in rows):
        parts[-1] += (
            " Differences are in points, over the seeds that both rows have, with a 95 % interval: "
            "for two or more seeds, Student's t of the differences paired by seed, which covers "
            "the chance between seeds only; for one seed Newcombe's, which covers the chance of "
            "the test images only."
        )
    if results["changed"]:
        parts.append(f"**Other values than the study's own: {'; '.join(results['changed'])}.**")
    longer = results["report_epochs"] and epochs != str(results["report_epochs"])
    if longer and results["dataset"] == DATASET:
        parts.append(
            f"Epochs here: {epochs}, each run with its own whole schedule; the report has "
            f"{results['report_epochs']}. So these accuracies are not those of the report, and an "
            "order found here need not hold after so many: regularization (mixup, dropout, more "
            "augmentation) usually pays in long runs only."
        )
    parts += [_accuracies(results, rows), _questions(results), _circumstances(rows)]
    parts += [
        f"![{re.split('[.:,]', text)[0]}]({name})\n\n{text}" for name, text in pictures.items()
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _accuracies(results: dict, rows: list[dict]) -> str:
    header = ["configuration", "report", "ours", "each seed", "difference"]
    header += ["own training images", "false labels memorized"]
    lines, other = [], results["dataset"] != DATASET
    for row in rows:
        text = f"**{row['text']}**" if row["leak"] else row["text"]
        if row["deviation"] is None:  # one run
            low, high = row["runs"][0]["interval"]
            deviation = f" ({100 * low:.2f} to {100 * high:.2f})"
        else:
            deviation = f" ± {100 * row['deviation']:.2f}"
        line = [
            f"{row['name']}: {text}",
            NONE if row["reported"] is None or other else f"{row['reported']:.2f}",
            f"{100 * row['accuracy']:.2f}{deviation}",
            ", ".join(f"{100 * run['accuracy']:.2f}" for run in row["runs"]),
            _against(row),
            _percent(row["train_accuracy"]),
            _percent(row["memorized"]),
        ]
        lines.append(line)
    return _table(header, *lines)


def _questions(results: dict) -> str:
    lines = []
    for row in results["rows"]:
        if row["question"] and row["difference"]:
            reported = row["claim"] and results["dataset"] == DATASET
            claim = f"The report: {row['claim']}. " if reported else ""
            lines.append(
                f"* {row['name']} against {row['against']}: {row['question']} {claim}"
                f"Ours: {_answer(row['difference'])}"
            )
    return "\n".join(["## What follows", "", *lines]) if lines else ""


def _answer(difference: dict) -> str:
    """The answer to a row's question in a sentence."""
    seeds, epochs = difference["seeds"], difference["epochs"]
    runs = f"{seeds} seed{'s' * (seeds > 1)} of {epochs} epoch{'s' * (epochs > 1)}"
    low, high = (f"{100 * end:+.2f}" for end in difference["interval"])
    found = f"{100 * difference['mean']:+.2f} points, 95 % interval {low} to {high}"
    link = "from" if difference["answer"] == "cannot be told" else "in"
    return f"**{difference['answer']}** {link} {runs} ({found})."


def _circumstances(rows: list[dict]) -> str:
    """How each row was run, and with what."""
    header = ["configuration", "epochs", "training images", "seeds", "minutes of each seed"]
    header += ["precision", "processor"]
    lines = [
        [
            row["name"],
            _all([row], "epochs"),
            _all([row], "images"),
            ", ".join(str(run["seed"]) for run in row["runs"]),
            ", ".join(f"{run['minutes']:.1f}" for run in row["runs"]),
            _all([row], "precision"),
            _machines(row["runs"]),
        ]
        for row in rows
    ]
    versions = {
        ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        for row in rows
        for run in row["runs"]
    }
    # What holds for all of several rows is said once.
    columns = list(zip(header, *lines, strict=True))
    same = [c for c in columns if len(rows) > 1 and len(set(c[1:])) == 1 and NONE not in c]
    table = _table(*zip(*(column for column in columns if column not in same), strict=True))
    same.append(("versions", "; ".join(sorted(versions))))
    said = "\n".join(f"* {name}: {value}" for name, value, *_ in same)
    return f"## How it was run\n\n{table}\n\nFor every run:\n\n{said}"


def _machines(runs: list[dict]) -> str:
    """Each machine, and where there are several, the seeds that it ran."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(_machine(run), []).append(str(run["seed"]))
    if len(seeds) == 1:
        return next(iter(seeds))
    return "; ".join(f"{machine} (seed {', '.join(own)})" for machine, own in seeds.items())


def _machine(run: dict) -> str:
    cores = run["cores"]
    name = ", ".join(run["gpus"] or ()) or f"{run['processor']}, {cores} core{'s' * (cores != 1)}"
    return "; ".join([name, *(f"changed on the way: {line}" for line in run["machine_changes"])])


def _all(rows: list[dict], key: str) -> str:
    """The different values of all runs."""
    values = {run[key] for row in rows for run in row["runs"]}
    return ", ".join(NONE if value is None else str(value) for value in sorted(values, key=str))


def _against(row: dict) -> str:
    """The difference to the neighbour in points, and of what."""
    if not row["difference"]:
        return NONE
    low, high = row["difference"]["interval"]
    points = f"{100 * row['difference']['mean']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    measure = "" if row["measure"] == "accuracy" else f" {row['measure']}"
    return f"{points}{measure} against {row['against']}"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _table(*lines: Sequence[str]) -> str:
    """The header and the lines, without the columns that say nothing."""
    columns = [c for c in zip(*lines, strict=True) if set(c[1:]) != {NONE}]
    header, *lines = zip(*columns, strict=True)
    rule = "|" + "---|" * len(header)
    return "\n".join(
        ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(x) + " |" for x in lines)]
    )
