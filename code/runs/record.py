"""run.json, the record of a run: its keys, and what a difference in one of them means."""

from __future__ import annotations

import json
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import Configure
from machine import files
from machine.errors import RunError

RECORD_FILE = "run.json"


class Key(NamedTuple):
    """One key of run.json, and what another value means to a run that is in the folder."""

    kind: Any  # type; a dictionary states the keys that it must have, a list its elements
    meaning: str
    resumed: str = ""  # an unfinished run with another value: "refuse" to go on, or "warn"
    finished: bool = False  # a finished run with another value is another run


KEYS = {
    "dataset": Key(str, "name of the data set", "refuse", True),
    "class_names": Key([str], "name of each label"),
    "data_digests": Key(
        {"train": str, "test": str}, "SHA-256 of images and labels", "refuse", True
    ),
    "preset": Key(str, "name of the preset that the flags changed"),
    "network": Key(str, "name of the network", "refuse", True),
    "parameters": Key(int, "number of its weights, moving statistics included"),
    "model_configs": Key(dict, "of Configure.py", "refuse", True),
    "training_configs": Key({"epochs": int}, "of Configure.py", "refuse", True),
    "init_from": Key(
        (str, type(None)), "weights_sha256 of the run whose weights it began with", "refuse", True
    ),
    # Absent from an honest run.
    "seen_test_images": Key((bool, type(None)), "trained on the test images too", "refuse", True),
    # Of a finished run only where one was asked for.
    "precision": Key(dict, "arithmetic that was used, and why", "warn", True),
    "hardware": Key(dict, "processor, GPUs, replicas, system", "warn"),
    "versions": Key(dict, "of the packages that results depend on to the bit", "refuse"),
    "machine_changes": Key([str], "differences that were warned of, in their order"),
    "minutes": Key(Real, "time of training"),
    "last_epoch": Key(dict, "the last row of history.csv"),
    "history_sha256": Key(str, "SHA-256 of history.csv without its times"),
    "weights_sha256": Key(str, "SHA-256 of the values of the mean image and the weights"),
    "weights_file_sha256": Key(str, "SHA-256 of model.weights.h5"),
    "mean_file_sha256": Key(str, "SHA-256 of pixel_mean.npy"),
}
"""Every key of run.json."""

IDENTIFY_UNFINISHED = tuple(name for name, key in KEYS.items() if key.resumed == "refuse")
IDENTIFY_FINISHED = tuple(name for name, key in KEYS.items() if key.finished)
DESCRIBE_MACHINE = tuple(name for name, key in KEYS.items() if key.resumed == "warn")


def write_record(folder: Path, record: dict) -> None:
    """Save run.json, the last file of a finished run; it may raise ``StorageError``."""
    files.write_json(folder / RECORD_FILE, record)


def read_record(path: Path) -> dict:
    """Read the record of a finished run.

    Args:
        path: the run's folder, or its run.json under any name.

    Returns:
        The keys of ``KEYS``; the configurations are complete and in their ranges.

    Raises:
        RunError: it is missing or damaged.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    try:
        record = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: expected a finished run, found no {RECORD_FILE}; run python main.py train, "
            "or name the folder of another run"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file}: damaged: {error}") from error
    for name, key in KEYS.items():
        if not isinstance(record, dict) or not _fits(record.get(name), key.kind):
            raise RunError(f"{file}: damaged: no {name}")
    try:
        for name, keys in Configure.KEYS.items():
            configs = record[name] = _complete(name, record[name])
            for key, what in keys.items():
                configs[key] = Configure.check(key, what, configs[key])
        Configure.check_depth(record["model_configs"]["depth"])
    except ValueError as error:
        raise RunError(f"{file}: damaged: {error}") from error
    return record


def leak_note(record: dict) -> str:
    """What must be said of a run's results, after what they are of; "" for an honest run."""
    return " (TRAINED ON THE TEST IMAGES)" if record.get("seen_test_images") else ""


def trained_on_test(record: dict) -> bool:
    """If a run was trained on the test images itself, not only begun with a run that was."""
    return bool(record.get("seen_test_images")) and not record.get("init_from")


def require_unseen(folder: Path, record: dict, seen_allowed: bool) -> None:
    """Raise ``RunError`` if a run has been trained on the test images, unless that is allowed."""
    if record.get("seen_test_images") and not seen_allowed:
        raise RunError(
            f"{folder}: expected a run that has not seen the test images, found one that was "
            "trained on them, so that its accuracy means nothing; --seen-test-images takes it",
        )


def differences(old: dict, new: dict, keys: tuple[str, ...], strict: bool = False) -> list[str]:
    """Name every value that differs, as "name: was A, is B".

    Args:
        old: record of the run in the folder.
        new: record of the run that is asked for.
        keys: compared with all that is in them, except for the reason of a precision.
        strict: name also the keys whose values may change when a run resumes.
    """
    found = []
    for key in keys:
        before, after = old.get(key), new.get(key)
        if key.endswith("_configs"):
            before, after = _complete(key, before), _complete(key, after)
        if isinstance(before, dict) and isinstance(after, dict):
            free = {"reason"} if strict else {"reason", *_may_change(key, before, after)}
            lines = differences(before, after, tuple(sorted({*before, *after} - free)), strict)
            # The keys of Configure.py stand for themselves.
            found += lines if key.endswith("_configs") else [f"{key} {line}" for line in lines]
        elif before != after:
            found.append(f"{key}: was {before}, is {after}")
    return found


def _complete(name: str, configs: dict | None) -> dict:
    """Add the keys that came after the run: their defaults are what was done without them.

    Keys that are gone since are left out if they were off.
    """
    known = getattr(Configure, name)
    return {**known, **{key: v for key, v in (configs or {}).items() if v or key in known}}


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_fits(value.get(k), v) for k, v in kind.items())
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(element, kind[0]) for element in value)
    return isinstance(value, kind)


def _may_change(key: str, old: dict, new: dict) -> set[str]:
    """Keys whose values may change when a run resumes.

    Only runs of one rate and one size of images can be extended: all else depends on the total
    length. The precision is compared with the machine: it changes bits, not the recipe.
    """
    if key == "model_configs":
        return {"precision"}
    if key != "training_configs":
        return set()
    constant = old["schedule"] == new["schedule"] == "constant" and not new["small_share"]
    return {"epochs"} if constant and new["epochs"] >= old["epochs"] else set()
