"""One peer in a process of its own: ``peer.py NAME MODE PRECISION BATCH STEPS``."""

import importlib
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

if __name__ == "__main__":
    name, mode, precision, batch_size, steps = sys.argv[1:]
    from turns import Turns

    turns = Turns()
    function = getattr(importlib.import_module(f"peer_{name}"), mode)
    if mode == "infer":
        function(precision, int(batch_size), turns)
    else:
        function(precision, int(batch_size), int(steps), turns)
