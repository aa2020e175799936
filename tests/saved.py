"""A record of a run, and changes of it."""

import json

import Configure

SHIPPED = ("resnet20", "fast", "best20", "wide")  # presets whose runs are in code/saved_models

RECORD = {
    "dataset": "shapes",
    "class_names": ["a", "b"],
    "data_digests": {"train": "a", "test": "b"},
    "preset": "quickstart",
    "network": "resnet8_v1",
    "parameters": 1498,
    "model_configs": Configure.configure("quickstart", {})[0],
    "training_configs": {**Configure.training_configs, "epochs": 2, "learning_rate": 0.1},
    "precision": {"used": "float32", "reason": "as asked"},
    "hardware": {"processor": "a", "cores": 2},
    "versions": {"tensorflow": "2.21.0"},
}
FINISHED = {
    **RECORD,
    "machine_changes": [],
    "minutes": 1.5,
    "last_epoch": {"epoch": 2},
    "history_sha256": "c",
    "weights_sha256": "d",
    "weights_file_sha256": "e",
    "mean_file_sha256": "f",
}


def digest(folder):
    """Digests of the weights and of the history of a finished run."""
    record = json.loads((folder / "run.json").read_text())
    return record["weights_sha256"], record["history_sha256"]


def changed(record=RECORD, **changes):
    """A copy of a record with other values: ``training_configs__epochs=3``."""
    record = json.loads(json.dumps(record))
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = record
        for parent in parents:
            target = target[parent]
        target[name] = value
    return record
