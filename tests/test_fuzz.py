"""The short form of fuzz.py."""

import fuzz


def test_damaged_files_are_read_right_or_refused_in_one_line():
    counts = fuzz.fuzz(cases=40)
    assert len(counts) == 10
    for reader, count in counts.items():
        assert count["refused"] > 0, reader
