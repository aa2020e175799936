"""The short form of crash.py."""

import crash


def test_a_training_that_is_killed_ends_in_the_bits_of_one_left_alone():
    kills, _, runs = crash.crash(2, kills_per_run=2)
    assert (kills.total(), runs >= 1) == (2, True)
