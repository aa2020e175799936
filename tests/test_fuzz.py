"""The short form of fuzz.py, and that the scripts of the Makefile start."""

import subprocess
import sys
from pathlib import Path

import fuzz
import pytest


def test_damaged_files_are_read_right_or_refused_in_one_line():
    counts = fuzz.fuzz(cases=40)
    assert len(counts) == 10
    for reader, count in counts.items():
        assert count["refused"] > 0, reader


@pytest.mark.parametrize("name", ["crash", "determinism", "fuzz"])
def test_a_script_starts_as_make_starts_it(name):
    script = Path(fuzz.__file__).with_name(f"{name}.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
