"""The short form of crash.py."""

import crash

PLACES = [("during a write", 9), ("after a rename", 6), ("in the final export", 3)]


def test_a_training_that_is_killed_ends_in_the_bits_of_one_left_alone():
    # With this seed, the newest state is damaged on the way.
    kills, damages, runs = crash.crash(3, seed=10, places=PLACES)
    assert kills == dict.fromkeys((point for point, _ in PLACES), 1)
    assert damages and runs == 1
