"""A run that several processes train: the chief's folder, and what the others learn of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from machine import cluster
from machine.errors import RunError, WorkerError
from runs import record as records
from runs import state as states
from runs.folder import Run


class SharedRun:
    """A run's folder for all workers: the chief reads and writes it, the others are told.

    Every process of the job must call every method (``save_state`` only with ``wait``). An error
    of the chief is a ``WorkerError`` in the others.

    Args:
        strategy: of ``cluster.make_strategy``.
        folder: of the run; not touched in other processes than the chief.
        record: see ``Run``.
    """

    def __init__(self, strategy: tf.distribute.Strategy, folder: Path, record: dict):
        self._strategy = strategy
        self._run = Run(folder, record) if cluster.is_chief(strategy) else None

    def __enter__(self):
        cluster.in_chief(self._strategy, lambda: bool(self._run.__enter__()))
        return self

    def __exit__(self, *exception):
        if self._run is not None:
            self._run.__exit__(*exception)

    @property
    def machine_changes(self) -> list[str]:
        """See ``Run``; none in other processes than the chief."""
        return self._run.machine_changes if self._run is not None else []

    @property
    def extends(self) -> bool:
        """See ``Run``; False in other processes than the chief."""
        return self._run is not None and self._run.extends

    @property
    def step(self) -> int:
        """See ``Run``; 0 in other processes than the chief."""
        return self._run.step if self._run is not None else 0

    def begin(self, fresh: bool) -> bool:
        """See ``Run.begin``."""
        return cluster.in_chief(self._strategy, lambda: self._run.begin(fresh))

    def load_state(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """See ``Run.load_state``."""
        state = None if self._run is None else self._run.load_state()
        data = cluster.broadcast(self._strategy, b"" if state is None else states.encode(*state))
        return states.decode(data) if data else None

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict, wait: bool = False) -> None:
        """See ``Run.save_state``; with ``wait`` the others wait until it is saved."""
        if wait:
            cluster.in_chief(self._strategy, lambda: self._run.save_state(arrays, progress))
        elif self._run is not None:
            self._run.save_state(arrays, progress)


def require_same(strategy: tf.distribute.Strategy, record: dict) -> None:
    """Compare what this process would train with what the chief would; all must call it.

    It comes before the network is built: workers that build other networks wait for each other
    without end.

    Args:
        strategy: of ``cluster.make_strategy``.
        record: of the run, and "flags", which must be the same, too.

    Raises:
        RunError: they differ.
        WorkerError: those of another worker differ.
    """
    chief, own = cluster.in_chief(strategy, lambda: record), json.loads(json.dumps(record))
    keys = (*records.IDENTIFY_UNFINISHED, "precision", "flags")
    found = records.differences(chief, own, keys, strict=True)
    if not cluster.any_process(strategy, bool(found)):
        return
    if not found:
        raise WorkerError("another worker could not go on; its own error says why")
    raise RunError(
        f"expected the run of the chief, found other values: {'; '.join(found)}; give every worker "
        "the same command, data, packages and --precision"
    )
