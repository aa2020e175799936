"""A run's folder for all workers of a job: the chief reads and writes it, the others are told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from machine.cluster import has_workers, is_chief, share, sum_over_processes
from machine.errors import RunError, UserError, WorkerError
from runs import record as records
from runs.folder import Run


class SharedRun:
    """A run's folder for all workers: the chief reads and writes it, the others are told.

    Args:
        strategy: of ``make_strategy``.
        folder: of the run; not touched in other processes than the chief.
        record: see ``Run``.

    Raises:
        UserError: see ``Run``.
    """

    def __init__(self, strategy: tf.distribute.Strategy, folder: Path, record: dict):
        self._strategy = strategy
        self._run = Run(folder, record) if is_chief(strategy) else None

    def __enter__(self):
        if self._run is not None:
            with self._telling_the_others():
                self._run.__enter__()
        return self

    def __exit__(self, *exception):
        if self._run is not None:
            self._run.__exit__(*exception)

    @property
    def machine_changes(self) -> list[str]:
        """Of ``Run``; nothing in other processes than the chief."""
        return self._run.machine_changes if self._run is not None else []

    def begin(self, fresh: bool, state_bytes: int) -> bool:
        """What ``Run.begin`` says to the chief, in every process.

        Args:
            fresh: start over, whatever the folder holds.
            state_bytes: of one state, to see if the disk has room.

        Raises:
            UserError: see ``Run.begin`` and ``Run.require_space``.
            WorkerError: the chief met one of these.
        """

        def begin():
            self._run.require_space(state_bytes)
            return self._run.begin(fresh)

        return self.in_chief(begin)

    def in_chief(self, work: Callable[[], Any]) -> Any:
        """Let the chief do something; the others wait for it.

        Collective: every process of the job must call it.

        Args:
            work: called in the chief only.

        Returns:
            What ``work`` gives, which must be JSON-serializable, in every process.

        Raises:
            UserError: of ``work``.
            WorkerError: the chief met one.
        """
        answer = {}
        if self._run is not None:
            with self._telling_the_others():
                answer = {"result": work()}
        answer = json.loads(share(self._strategy, json.dumps(answer).encode()))
        if "error" in answer:
            raise WorkerError(f"the chief could not go on: {answer['error']}")
        return answer["result"]

    @contextlib.contextmanager
    def _telling_the_others(self):
        try:
            yield
        except UserError as error:
            share(self._strategy, json.dumps({"error": str(error)}).encode())
            raise

    def load_state(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """The chief's ``Run.load_state``, in every process."""
        state = self._run.load_state() if self._run is not None else None
        if not has_workers(self._strategy):
            return state
        data = b"" if state is None else state.encode(*state)
        data = share(self._strategy, data)
        return state.decode(data) if data else None

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict, wait: bool = False) -> None:
        """Save in the chief's folder.

        Args:
            arrays: see ``Run.save_state``.
            progress: see there.
            wait: let the others wait for it; then every process must call this.

        Raises:
            StorageError: see ``Run.save_state``.
            WorkerError: the chief met one, if this waits.
        """
        if wait:
            self.in_chief(lambda: self._run.save_state(arrays, progress))
        elif self._run is not None:
            self._run.save_state(arrays, progress)


def require_same(strategy: tf.distribute.Strategy, record: dict) -> None:
    """Compare what this process would train with what the chief would.

    Collective. It comes before the network is built: workers that build other networks wait for
    each other without end.

    Args:
        strategy: of ``make_strategy``.
        record: the keys of ``records.require_same``.

    Raises:
        RunError: they differ.
        WorkerError: those of another worker differ.
    """
    own, difference = json.dumps(record), None
    chief = share(strategy, own.encode())
    try:
        records.require_same(json.loads(chief), json.loads(own))
    except RunError as error:
        difference = error
    refused = int(sum_over_processes(strategy, np.float32([difference is not None]))[0])
    if difference is not None:
        raise difference
    if refused:
        raise WorkerError(
            f"expected every worker to train what the chief does, found {refused} that would not; "
            "what differs is in their own errors"
        )
