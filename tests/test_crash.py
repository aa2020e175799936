"""The short form of crash.py."""

import crash


def test_a_training_that_is_killed_ends_in_the_bits_of_one_left_alone():
    counts = crash.crash(kills=2, kills_per_run=2)
    assert counts["runs"] >= 1
    assert sum(counts.values()) - counts["runs"] == 2
