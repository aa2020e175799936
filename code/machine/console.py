"""The terminal: what is said there never ends the work, and signals are heard between steps."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

from machine import files

HEARD = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that save and stop a training; schedulers warn with any of the last four."""
ENDING = (signal.SIGINT, signal.SIGTERM)  # at once, the second time
# A scheduler may signal a study and its runs, to which the study hands it on: that is one signal.
ONE_SIGNAL_SECONDS = 1.0


class _Lasting(io.TextIOBase):
    """A text stream that falls silent when its reader or terminal is gone, or its disk is full."""

    def __init__(self, stream):
        self._stream, self._error = stream, None
        if hasattr(stream, "reconfigure"):
            # A terminal without Unicode gets escapes. Lines leave at once, so that what has been
            # said is seen and a reader that is gone is noticed here.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, action) -> None:
        if self._stream is None:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._stream = None
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                self._error = error

    def require_written(self) -> None:
        """Raise ``StorageError`` if it went into a file for which the disk had no room."""
        if self._error:
            with files.storing(Path("standard output")):
                raise self._error

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("the stream is gone")
        return self._stream.fileno()

    @property
    def encoding(self):
        return getattr(self._stream, "encoding", "utf-8")


@contextlib.contextmanager
def lasting_streams():
    """Within this context, printing to a closed pipe or terminal is silence, not an error.

    Yields:
        The standard output.
    """
    before = sys.stdout, sys.stderr
    for number in range(3):  # a closed one would be the number of the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = map(_Lasting, before)
    try:
        yield sys.stdout
    finally:
        sys.stdout, sys.stderr = before


class Signals:
    """Remembers the signals of HEARD for a training to see.

    A second SIGINT or SIGTERM, a second or more later, ends the process at once. Outside the main
    thread, where Python hears no signals, it does nothing. A signal that was ignored when the
    process started (``nohup``) stays ignored.
    """

    def __enter__(self) -> Signals:
        self._received, self._asked_to_end = False, None
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for name in HEARD:
                number = getattr(signal, name)
                # A background job of a shell has SIGINT ignored; it is meant to be stopped by it.
                if signal.getsignal(number) is not signal.SIG_IGN or name == "SIGINT":
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def received(self) -> bool:
        """If a signal came since this context began."""
        return self._received

    def _receive(self, number, frame):
        # A terminal that closes may send SIGHUP twice: that is no wish to lose the work.
        if number in ENDING:
            now = time.monotonic()
            if self._asked_to_end is None:
                self._asked_to_end = now
            elif now - self._asked_to_end >= ONE_SIGNAL_SECONDS:
                os._exit(128 + number)
        self._received = True
        with contextlib.suppress(OSError):
            # Not print: it may have been interrupted in a print itself.
            once_more = "; once more to stop at once" * (number in ENDING)
            os.write(2, f"stopping after a few steps{once_more}\n".encode())
