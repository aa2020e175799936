"""README and docs: what they say of the program is what the program says."""

import re
from pathlib import Path

from machine.errors import EXIT_CODES

ROOT = Path(__file__).resolve().parent.parent


def test_the_exit_codes_are_those_of_the_program():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.M)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)
