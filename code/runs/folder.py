"""The folder of a run: one process at a time, never mixed with files of something else."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path

import numpy as np

from machine import files
from machine.errors import RunError, StorageError
from runs import state
from runs.metrics import HISTORY_FILE
from runs.record import (
    DESCRIBE_MACHINE,
    IDENTIFY_FINISHED,
    IDENTIFY_UNFINISHED,
    RECORD_FILE,
    differences,
    read_record,
)
from runs.weights import MEAN_FILE, WEIGHTS_FILE

LOCK_FILE = ".lock"
# A folder with one of these or a record is a run's, and may give way to another run.
MARKS = (state.STATE_FILE, state.PREVIOUS_STATE_FILE)
FIRST_PICTURES = ("classes.png", "augmented_batch.png")  # written before the first state
TRAINING_FILES = (
    *MARKS,
    RECORD_FILE,
    WEIGHTS_FILE,
    MEAN_FILE,
    HISTORY_FILE,
    "curves.png",
    *FIRST_PICTURES,
)
AS_GOOD_AS_EMPTY = (LOCK_FILE, "lost+found", ".gitkeep")


class Run:
    """The folder of one training run, held by this process alone while the context lasts.

    Args:
        folder: made if it is missing.
        record: what the run is: the keys of ``runs.record.KEYS`` that are known before it begins.

    Attributes:
        machine_changes: each change of the machine that the run went on with, in their order.
        extends: if it goes on from a finished run of fewer epochs, which lies in the folder.

    Raises:
        RunError: another process trains into this folder, or it holds something else than a run.
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, record: dict):
        self.folder = folder
        self.machine_changes: list[str] = []
        self.extends = False
        self._record = json.loads(json.dumps(record))
        self._state = None
        self._lock = contextlib.ExitStack()

    def __enter__(self):
        self._require_own_folder()
        self._take_lock()
        with files.storing(self.folder):
            for name in TRAINING_FILES:
                files.remove_leftovers(self.folder / name)
        return self

    def __exit__(self, *_):
        self._lock.close()

    def begin(self, fresh: bool) -> bool:
        """Decide what to do in this folder; a run that must give way is moved aside, not deleted.

        A finished run is replaced by one of another configuration; an unfinished one is not,
        unless ``fresh`` says so.

        Args:
            fresh: start over, whatever run the folder holds.

        Returns:
            False if this very run is finished here, else True.

        Raises:
            RunError: an unfinished run of another configuration, data, network or version.
            StorageError: the run cannot be moved aside.
        """
        if fresh:
            if self._has_marks():
                self._move_aside("--fresh")
            return True
        finished = self._finished_record()
        if finished is not None:
            # Where nobody asked for a precision, one that this machine would not take is no
            # reason to train again.
            free = {"precision"} if self._record["model_configs"]["precision"] == "auto" else set()
            keys = tuple(key for key in IDENTIFY_FINISHED if key not in free)
            if found := differences(finished, self._record, keys):
                self._move_aside("; ".join(found))
                return True
            if finished["training_configs"]["epochs"] == self._record["training_configs"]["epochs"]:
                return False
        # A finished run is judged without its state: that may be damaged, or gone.
        self._state = state.load(self.folder)
        if self._state is None:
            if finished is not None:
                self._move_aside("more epochs, but no state to go on from")
            elif (self.folder / RECORD_FILE).exists():
                self._move_aside("its weights are not those of its run.json")
            return True
        unfinished = self._state[1]["run"]
        if found := differences(unfinished, self._record, IDENTIFY_UNFINISHED):
            line = f"expected a run of the same kind to go on with, found {'; '.join(found)}"
            advice = "use the old values, --fresh, or another --save-dir"
            if finished is None:
                advice += (
                    ". To go on from its weights with other values, finish it first, then begin "
                    "another run with --init-from; to lower the rate on the way: --schedule steps"
                )
            raise RunError(f"{self.folder}: {line}; {advice}")
        changed = differences(unfinished, self._record, DESCRIBE_MACHINE)
        self.machine_changes = unfinished.get("machine_changes", []) + changed
        self.extends = finished is not None
        if changed:
            warnings.warn(f"bits may differ: {'; '.join(changed)}", stacklevel=2)
        return True

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict) -> None:
        """Save all that the run needs to go on; the state before it is kept beside it.

        Args:
            arrays: by name.
            progress: JSON-serializable.

        Raises:
            StorageError: the state cannot be written; the last one is intact.
        """
        run = {**self._record, "machine_changes": self.machine_changes}
        state.save(self.folder, arrays, {"run": run, "progress": progress})

    def load_state(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """The arrays and the progress of the last state, see ``state.load``."""
        loaded, self._state = self._state or state.load(self.folder), None
        return None if loaded is None else (loaded[0], loaded[1]["progress"])

    @property
    def step(self) -> int:
        """Completed steps of the state that ``begin`` has found, until ``load_state`` gives it."""
        return 0 if self._state is None else self._state[1]["progress"]["step"]

    def _has_marks(self) -> bool:
        """If this is the folder of a run, and not one with a run.json of something else."""
        if any((self.folder / name).exists() for name in MARKS):
            return True
        try:
            return b'"model_configs"' in (self.folder / RECORD_FILE).read_bytes()
        except OSError:
            return False

    def _require_own_folder(self):
        """Refuse a folder with something else than a run in it, before anything is touched."""
        if not self.folder.is_dir() or self._has_marks():
            return
        with files.storing(self.folder):
            names = sorted(path.name for path in self.folder.iterdir())
        fine = (*AS_GOOD_AS_EMPTY, *FIRST_PICTURES) if LOCK_FILE in names else AS_GOOD_AS_EMPTY
        others = [name for name in names if name not in fine and name[-4:] != ".tmp"]
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise RunError(
                f"{self.folder}: expected a new or empty folder, or the folder of a run, found "
                f"{others[0]}{more}; name another one with --save-dir",
            )

    def _take_lock(self):
        path = self.folder / LOCK_FILE
        with files.storing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock.enter_context(files.locked(path)) is None:
            self._lock.close()
            raise RunError(
                f"{self.folder}: expected a free run folder, found another process training into "
                "it; wait for it, or name another folder with --save-dir"
            )

    def _finished_record(self) -> dict | None:
        """What run.json says, if the weights that it describes are there."""
        if not (self.folder / RECORD_FILE).exists():
            return None
        record = read_record(self.folder)
        for name, key in ((WEIGHTS_FILE, "weights_file_sha256"), (MEAN_FILE, "mean_file_sha256")):
            path = self.folder / name
            if not path.exists() or files.file_sha256(path) != record[key]:
                return None
        return record

    def _move_aside(self, why: str):
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}-{number}")).exists():
            number += 1
        try:
            self.folder.rename(aside)
        except OSError as error:
            raise StorageError(
                f"{self.folder}: the run in it cannot be moved to {aside.name}: {error.strerror}; "
                "a mount point cannot be moved, nor a folder whose parent you may not write: name "
                f"another folder with --save-dir, as {self.folder / '2'}"
            ) from error
        self._lock.close()
        self._take_lock()
        line = f"the run that was in {self.folder} is now in {aside} ({why})"
        if (aside / WEIGHTS_FILE).exists():
            line += f"; this one begins anew, --init-from {aside} would begin from its weights"
        print(line, flush=True)
