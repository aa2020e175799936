"""Put finished runs beside each other: the table and the curves of a study."""

from __future__ import annotations

import json
from pathlib import Path

import Configure
from machine.errors import RunError
from runs import record as records
from runs.metrics import describe_views
from study import tables
from study.write import PAGE_FILE, require_own, write_results


def compare(*, runs: list[Path], output: Path) -> None:
    """Write the table, page and curves of finished and tested runs, and print the table.

    Runs that differ in nothing but their seed are one row; each row is compared with the first.

    Args:
        runs: their folders.
        output: folder to write to.

    Raises:
        RunError: a run is missing, damaged or not tested, or was measured on other test images
            or in another way; two runs of one seed differ; or ``output`` holds something else.
        StorageError: ``output`` cannot be written.
    """
    require_own(output, "compare")
    runs = [folder.resolve() for folder in runs]
    alike = len({folder.name for folder in runs}) < len(set(runs))
    groups: dict[str, dict[str, dict]] = {}
    for folder in runs:
        run, name = tables.read_run(folder), str(folder) if alike else folder.name
        group = groups.setdefault(json.dumps(_configuration(run), sort_keys=True), {})
        seed = run["record"]["model_configs"]["seed"]
        for other, known in group.items():
            if known["record"]["model_configs"]["seed"] == seed and other != name:
                raise RunError(
                    f"expected runs that differ, found {other} and {name} of one configuration and "
                    f"seed {seed}; name one of them"
                )
        group[name] = run
    configurations = [json.loads(key) for key in groups]
    differing = [
        key
        for key in configurations[0]
        if len({json.dumps(values.get(key)) for values in configurations}) > 1
    ]
    rows, found = [], {}
    for values, members in zip(configurations, groups.values(), strict=True):
        text = ", ".join(f"{key} {values.get(key)}" for key in differing) or "as configured"
        row = Configure.Row(
            next(iter(members)),
            text + records.leak_note(values),
            against=rows[0].name if rows else None,
            leak=bool(values["seen_test_images"]),
        )
        rows.append(row)
        found[row.name] = list(members.values())
    study = Configure.Study("Finished runs beside each other.", tuple(rows), epochs=0)
    results = tables.tabulate("compare", study, found, len(set(runs)))
    write_results(output, results)
    images = f"{results['test_images']:,} test images of {results['dataset']}"
    print(f"{images}, measured in float32{describe_views(results['how'])}")
    for row in results["rows"]:
        seeds = ", ".join(f"{100 * run['accuracy']:.2f}" for run in row["runs"])
        print(f"{row['name']}: {100 * row['accuracy']:.2f} % ({seeds})  {row['text']}")
    print(f"table and pictures: {output / PAGE_FILE}")


def _configuration(run: dict) -> dict:
    """All that makes a run what it is, but for its seed."""
    record = run["record"]
    values = {**record["model_configs"], **record["training_configs"]}
    values["seen_test_images"] = record.get("seen_test_images", False)
    values["init_from"] = record.get("init_from")
    values["precision"] = record["precision"]["used"]
    values["training data"] = record["data_digests"]["train"][:8]
    del values["seed"]
    return values
