"""The files of a study or a comparison: results.json, README.md and pictures."""

from __future__ import annotations

import json
from pathlib import Path

from machine import files
from study import page, plots

RESULTS_FILE, PAGE_FILE = "results.json", "README.md"


def write_results(folder: Path, results: dict) -> None:
    """Write what ``study.tables.tabulate`` gives as JSON, as a page, and as pictures.

    Raises:
        StorageError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    if results["finished"]:
        drawn = {
            "curves.png": (
                "Training loss and validation accuracy: the mean over the seeds, and the band "
                "between the lowest and the highest.",
                plots.curves_png(results),
            ),
            "matrices.png": (
                "Above, the report's figures 3 to 5; below, ours, summed over the seeds. As in the "
                "report the true class is in the columns. Cells with ? cannot be read in the "
                "report's text.",
                plots.matrices_png(results),
            ),
        }
        pictures = {name: text for name, (text, data) in drawn.items() if data}
        for name in pictures:
            files.write_bytes(folder / name, drawn[name][1])
    text = json.dumps(results, indent=1) + "\n"
    files.write_bytes(folder / PAGE_FILE, page.markdown(results, pictures).encode())
    files.write_bytes(folder / RESULTS_FILE, text.encode())
