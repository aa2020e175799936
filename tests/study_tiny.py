"""``main.py`` with a study of three rows, of which one diverges."""

import sys

import Configure
import main

Configure.STUDIES["tiny"] = Configure.Study(
    "Three rows.",
    (
        Configure.Row("fine", "as it is"),
        Configure.Row("leak", "TRAINED ON THE TEST IMAGES TOO", leak=True),
        Configure.Row("wild", "diverges", {"optimizer": "sgd", "learning_rate": 100.0}),
    ),
    seeds=1,
)

if __name__ == "__main__":
    sys.exit(main.main())
