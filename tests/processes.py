"""Calls in processes of their own, forks of one that has imported TensorFlow, which takes seconds.

Nothing else of TensorFlow is used before the fork: it would not survive it.
"""

import multiprocessing
import os
import sys
import time

from machine import processor

SECONDS = 200
processor.prepare_tensorflow()
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tensorflow", "keras", "matplotlib.pyplot"])


class Process:
    """A call under way: it ends with the exit code of ``sys.exit``, or by a signal.

    Args:
        output: folder for what it writes to its streams, the files ``out`` and ``err``; made.
        target: function of a module, or anything that pickle can name.
        arguments: of the call.
        options: of the call.
    """

    def __init__(self, output, target, *arguments, **options):
        self.output = output
        output.mkdir(parents=True)
        self._kept = arguments, options  # a barrier must live until the process has taken it up
        self._process = PROCESSES.Process(target=call, args=(output, target, arguments, options))
        self._process.start()

    def finish(self, *codes):
        """What it wrote to stderr; it must end with one of these codes, or 0 if there is none."""
        self._process.join(SECONDS)
        self.code = self._process.exitcode
        self._process.kill()
        assert self.code in (codes or (0,)), (self.code, self.read("err"))
        return self.read("err")

    def wait_for(self, happened):
        """Until ``happened`` says that it has done something."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert self._process.is_alive(), self.read("err")
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(self, number):
        os.kill(self._process.pid, number)

    def read(self, name):
        path = self.output / name
        return path.read_text() if path.exists() else ""  # it has not begun


def call(output, target, arguments, options):
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(output / name, os.O_CREAT | os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    target(*arguments, **options)
