"""What can go wrong for the user: a class for each exit code, its first line the code's meaning.

Every message is one line: what was expected, what was found, what to do.
"""

from __future__ import annotations


class UserError(ValueError):
    """A wrong flag or value."""

    exit_code = 2


class DataError(UserError):
    """Data that are missing or damaged."""

    exit_code = 3


class DownloadError(UserError):
    """A download that failed."""

    exit_code = 4


class RunError(UserError):
    """A saved run that is missing, damaged, or of something else."""

    exit_code = 5


class StorageError(UserError):
    """A place that cannot be written."""

    exit_code = 6


class DivergedError(UserError):
    """A loss, weight or probability that became infinite or NaN."""

    exit_code = 7


class DeterminismError(UserError):
    """Results that do not repeat."""

    exit_code = 8


class WorkerError(UserError):
    """A worker of the same job that is gone."""

    exit_code = 9


class StudyError(UserError):
    """A study of which some runs failed."""

    exit_code = 10


class InterruptedRunError(UserError):
    """Stopped by a signal, what was trained is saved: start the same command again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


def _meaning(error: type[UserError]) -> str:
    line = error.__doc__.split("\n")[0].rstrip(".")
    return line[0].lower() + line[1:]


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a defect of the program",
    **{error.exit_code: _meaning(error) for error in (UserError, *UserError.__subclasses__())},
    130: "interrupted from the keyboard before or after the training, or twice during it",
    143: "ended by SIGTERM before or after the training, or twice during it (by signal n: 128 + n)",
}
"""Every exit code of ``main.py`` and its meaning, in the order of the codes."""
