"""README and docs: what they say of the program is what the program says."""

import json
import re
from pathlib import Path

import pytest

import Configure
from machine.errors import EXIT_CODES
from study import tables
from study.page import markdown
from study.write import CAPTIONS

ROOT = Path(__file__).resolve().parent.parent


def test_the_exit_codes_are_those_of_the_program():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.M)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)


@pytest.mark.parametrize("name", ["tables"])
def test_the_page_of_a_study_says_what_its_results_say(name):
    folder = ROOT / "docs" / name
    pictures = {file: text for file, text in CAPTIONS.items() if (folder / file).exists()}
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "README.md").read_text() == markdown(results, pictures)
    runs = {
        row.name: [
            tables.read_run(path.parent) for path in sorted(folder.glob(f"{row.name}-*/run.json"))
        ]
        for row in Configure.STUDIES[name].rows
    }
    found = tables.tabulate(name, Configure.STUDIES[name], runs, results["expected"])
    assert {**json.loads(json.dumps(found)), "failed": {}} == results
