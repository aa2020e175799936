"""``main.py`` with a study of three rows, of which one diverges, and one can be killed."""

import os
import sys

import crash_child
import study_child

import Configure
import main
from machine import processor

Configure.STUDIES["tiny"] = Configure.Study(
    "Three rows.",
    (
        Configure.Row("fine", "as it is"),
        Configure.Row("leak", "TRAINED ON THE TEST IMAGES TOO", leak=True),
        Configure.Row("wild", "diverges", {"optimizer": "sgd", "learning_rate": 100.0}),
    ),
    seeds=1,
)


def work(*arguments, **values):
    """``study_child.work`` in a process that knows this study."""
    study_child.work(*arguments, **values)


if __name__ == "__main__":
    if f"--only={os.environ.get('KILLED')}" in sys.argv:
        processor.prepare_tensorflow()
        crash_child.arm("in an evaluation", 3)  # two epochs are saved
    sys.exit(main.main())
