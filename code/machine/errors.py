"""What can go wrong for the user, one class for each exit code of ``main.py``.

Every message is one line: what was expected, what was found, what to do.
"""

from __future__ import annotations

from typing import Any


class UserError(ValueError):
    """A wrong flag, value, shape or range.

    Args:
        message: the line that is shown.
        key: name of what was wrong, where it has one.
        expected: what it should have been.
        found: what it was.
    """

    exit_code = 2
    meaning = "a wrong flag or value"

    def __init__(self, message: str = "", key: str = "", expected: Any = None, found: Any = None):
        super().__init__(message)
        self.key, self.expected, self.found = key, expected, found


class DataError(UserError):
    """A data file or folder that is not what it should be."""

    exit_code = 3
    meaning = "data that are missing or damaged"


class DownloadError(UserError):
    """No network, a refused or broken transfer, or a wrong file at its end."""

    exit_code = 4
    meaning = "a download that failed"


class RunError(UserError):
    """A saved run that does not fit what was asked of it."""

    exit_code = 5
    meaning = "a saved run that is missing, damaged, or of something else"


class StorageError(UserError):
    """A full or read-only disk, or a folder that is gone."""

    exit_code = 6
    meaning = "a place that cannot be written"


class DivergedError(UserError):
    """Training met a loss or a weight that is not a finite number."""

    exit_code = 7
    meaning = "a loss that became infinite or NaN"


class DeterminismError(UserError):
    """Two equal trainings did not give equal weights."""

    exit_code = 8
    meaning = "results that do not repeat"


class WorkerError(UserError):
    """Another process of the same job ended, or did not come."""

    exit_code = 9
    meaning = "a worker of the same job that is gone"


class StudyError(UserError):
    """Some runs of a study failed; the others are finished."""

    exit_code = 10
    meaning = "a study of which some runs failed"


class InterruptedRunError(UserError):
    """A signal ended the training; its state is saved. 75 is EX_TEMPFAIL of sysexits.h."""

    exit_code = 75
    meaning = "stopped by a signal and saved: start the same command again"


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a defect of the program",
    **{error.exit_code: error.meaning for error in (UserError, *UserError.__subclasses__())},
    130: "interrupted from the keyboard before or after the training",
    143: "ended by SIGTERM before or after the training (by another signal n: 128 + n)",
}
"""Every exit code of ``main.py`` and its meaning, in the order of the codes."""
