"""README and docs: what they say of the program is what the program says."""

import json
import re
from pathlib import Path

import pytest

import Configure
from machine.errors import EXIT_CODES
from main import SAVED_MODELS
from study import tables
from study.page import markdown
from study.write import CAPTIONS
from verbs.compare import compare

ROOT = Path(__file__).resolve().parent.parent


def test_the_exit_codes_are_those_of_the_program():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.M)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)


@pytest.mark.parametrize("name", ["tables", "fast"])
def test_a_page_of_runs_says_what_its_results_say(name):
    folder = ROOT / "docs" / name
    pictures = {file: text for file, text in CAPTIONS.items() if (folder / file).exists()}
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "README.md").read_text() == markdown(results, pictures)


def test_the_results_of_a_study_are_those_of_its_runs():
    folder, study = ROOT / "docs" / "tables", Configure.STUDIES["tables"]
    results = json.loads((folder / "results.json").read_text())
    runs = {
        row.name: [
            tables.read_run(path.parent) for path in sorted(folder.glob(f"{row.name}-*/run.json"))
        ]
        for row in study.rows
    }
    found = tables.tabulate("tables", study, runs, results["expected"])
    assert {**json.loads(json.dumps(found)), "failed": {}} == results


def test_the_results_of_a_comparison_are_those_of_its_runs(tmp_path):
    folder = ROOT / "docs" / "fast"
    runs = [SAVED_MODELS / "fast", *(path.parent for path in sorted(folder.glob("*/run.json")))]
    compare(runs=runs, output=tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == json.loads((folder / "results.json").read_text())
