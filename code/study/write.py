"""The files of a study or a comparison: results.json, README.md and pictures."""

from __future__ import annotations

import json
from pathlib import Path

from machine import files
from machine.errors import RunError
from study import page, plots

RESULTS_FILE, PAGE_FILE = "results.json", "README.md"
CAPTIONS = {
    "curves.png": "Training loss and validation accuracy: the mean over the seeds, and the band "
    "between the lowest and the highest. The training loss of mixed or smoothed labels cannot be "
    "compared with that of others.",
    "matrices.png": "Confusion matrices: above, the report's figures 3 to 5; below, ours, the "
    "mean over the seeds. As in the report, the true class is in the columns. Cells that cannot be "
    "read in the report follow from the 1,000 images of each column; the two marked ? do not.",
}


def require_own(folder: Path, study: str) -> None:
    """Raise ``RunError`` if one of these files in ``folder`` is not of the study of this name."""
    found = [name for name in (RESULTS_FILE, PAGE_FILE, *CAPTIONS) if (folder / name).exists()]
    try:
        own = not found or json.loads((folder / RESULTS_FILE).read_bytes())["study"] == study
    except (OSError, ValueError, TypeError, KeyError):
        own = False
    if not own:
        raise RunError(
            f"{folder}: expected a new folder, or one of {study}, found {found[0]} of something "
            "else; name another"
        )


def write_numbers(folder: Path, results: dict) -> None:
    """Write what ``study.tables.tabulate`` gives as JSON; it may raise ``StorageError``."""
    files.write_json(folder / RESULTS_FILE, results, indent=1)


def write_results(folder: Path, results: dict) -> None:
    """Write what ``study.tables.tabulate`` gives as JSON, as a page, and as pictures.

    Raises:
        StorageError: a file cannot be written.
    """
    with files.storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_numbers(folder, results)
    drawn = {}
    if results["finished"]:
        drawn["curves.png"] = plots.curves_png(results)
        drawn["matrices.png"] = plots.matrices_png(results)
    pictures = {name: CAPTIONS[name] for name, data in drawn.items() if data}
    for name in CAPTIONS:
        if name in pictures:
            files.write_bytes(folder / name, drawn[name])
        else:
            (folder / name).unlink(missing_ok=True)
    files.write_bytes(folder / PAGE_FILE, page.markdown(results, pictures).encode())
