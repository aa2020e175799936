"""What can go wrong for the user, one class for each exit code of ``main.py``.

Every message is one line: what was expected, what was found, what to do.
"""


class UserError(ValueError):
    """A wrong flag, value, shape or range."""

    exit_code = 2


class DataError(UserError):
    """A data file or folder that is missing, broken, or not what it should be."""

    exit_code = 3


class DownloadError(UserError):
    """The data could not be fetched: no network, a refused or broken transfer, a wrong file."""

    exit_code = 4


class RunError(UserError):
    """A saved run that is missing, damaged, or does not belong to what was asked of it."""

    exit_code = 5


class StorageError(UserError):
    """A place that cannot be written: full, read-only, or gone."""

    exit_code = 6


class DivergedError(UserError):
    """Training met a loss that is not a finite number."""

    exit_code = 7


class DeterminismError(UserError):
    """Two equal trainings did not give equal weights."""

    exit_code = 8


class WorkerError(UserError):
    """Another process of the same job is gone, or did not come."""

    exit_code = 9


class InterruptedRunError(UserError):
    """A signal ended the training; its state is saved. 75 is EX_TEMPFAIL: start it again."""

    exit_code = 75
