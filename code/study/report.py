"""The report's own confusion matrices (figures 3 to 5), for its three optimizers."""

from __future__ import annotations

from typing import NamedTuple

DATASET = "cifar10"  # beside results on other images, nothing of the report is shown
TEST_IMAGES = 10_000


class Figure(NamedTuple):
    """A figure of the report."""

    number: int
    row: str  # of the study "tables": the configuration that the figure is of
    matrix: tuple[tuple[int | None, ...], ...]  # [predicted][true]; None where it is not legible


# As in the report, the true class is in the columns: each adds up to the 1,000 test images of a
# class. In the text that is left of the report, the first row of each figure and some other cells
# are damaged; they follow from that sum, but for two cells of figure 4, which are 2 together.
FIGURES = (
    Figure(
        3,
        "sgd",
        (
            (705, 9, 90, 24, 27, 7, 5, 16, 76, 13),
            (79, 902, 15, 20, 18, 12, 7, 9, 82, 67),
            (44, 4, 447, 49, 40, 32, 21, 33, 5, 2),
            (11, 3, 42, 428, 39, 102, 21, 28, 16, 4),
            (13, 0, 32, 24, 361, 25, 4, 25, 3, 2),
            (20, 1, 83, 212, 57, 678, 37, 60, 3, 2),
            (18, 9, 221, 174, 315, 79, 895, 38, 12, 5),
            (21, 2, 48, 36, 120, 46, 5, 759, 7, 6),
            (26, 2, 4, 6, 3, 0, 1, 0, 725, 7),
            (63, 68, 18, 27, 20, 19, 4, 32, 71, 892),
        ),
    ),
    Figure(
        4,
        "rmsprop",
        (
            (957, 0, 4, 1, 3, 0, 0, 2, 7, 1),
            (1, 996, 0, 1, 1, 1, 1, 0, 15, 11),
            (11, 0, 961, 12, 15, 8, 5, 1, 0, 0),
            (14, 0, 3, 953, 11, 21, 4, None, 1, 2),
            (1, 0, 6, 5, 937, 4, 0, 2, 0, 0),
            (3, 0, 6, 15, 10, 954, 1, 3, 1, 0),
            (2, 0, 17, 9, 15, 8, 988, 1, 2, 0),
            (0, 0, 3, 1, 7, 2, 0, 988, 1, 0),
            (8, 0, 0, 1, 0, 0, 0, None, 964, 0),
            (3, 4, 0, 2, 1, 2, 1, 1, 9, 986),
        ),
    ),
    Figure(
        5,
        "adam",
        (
            (970, 1, 7, 1, 1, 0, 1, 1, 12, 1),
            (1, 999, 0, 0, 1, 1, 0, 0, 5, 9),
            (12, 0, 969, 6, 11, 6, 1, 1, 1, 0),
            (11, 0, 3, 952, 4, 12, 4, 3, 1, 0),
            (1, 0, 1, 3, 945, 1, 0, 3, 0, 0),
            (1, 0, 4, 16, 7, 973, 0, 3, 1, 0),
            (1, 0, 13, 17, 18, 6, 993, 2, 4, 0),
            (1, 0, 2, 2, 10, 1, 0, 985, 0, 0),
            (2, 0, 0, 1, 0, 0, 0, 0, 971, 0),
            (0, 0, 1, 2, 3, 0, 1, 2, 5, 990),
        ),
    ),
)
