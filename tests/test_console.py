"""machine/console.py: no reader, no terminal and no thread is a reason to lose work."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

import main
from machine import console


@pytest.fixture
def handlers():
    """The handlers of all signals that are heard, put back in the end."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in console.HEARD}
    # A shell's background job has SIGINT ignored, and nohup SIGHUP.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", console.HEARD)
def test_a_signal_is_remembered(handlers, capfd, name):
    with console.Signals() as signals:
        assert not signals.received()
        signal.raise_signal(getattr(signal, name))
        assert signals.received()
    said = capfd.readouterr().err
    assert said.startswith("stopping after a few steps")
    assert ("once more to stop at once" in said) == (name in ("SIGINT", "SIGTERM"))


def test_a_second_hangup_does_not_end_the_process(handlers):
    with console.Signals() as signals:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert signals.received()


def test_what_reaches_a_process_twice_at_once_is_one_signal_and_later_it_is_two(
    handlers, monkeypatch
):
    ended, now = [], [5.0]
    monkeypatch.setattr(console.os, "_exit", ended.append)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Signals() as signals:
        signal.raise_signal(signal.SIGUSR1)  # a warning before the end is no wish to end at once
        for seconds in (0.0, 0.5):
            now[0] += seconds
            signal.raise_signal(signal.SIGTERM)
        assert signals.received() and not ended
        now[0] += 1.0
        signal.raise_signal(signal.SIGTERM)
        assert ended == [128 + signal.SIGTERM]


def test_an_ignored_hangup_stays_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with console.Signals() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert not signals.received()


def test_handlers_are_put_back(handlers):
    before = signal.getsignal(signal.SIGTERM)
    with console.Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_printing_to_a_closed_pipe_is_silence(stream):
    script = (
        "import sys\n"
        "from machine.console import lasting_streams\n"
        "with lasting_streams():\n"
        f"    print('read', file=sys.{stream})\n"
        "    sys.stdin.read()\n"
        f"    for _ in range(2): print('not read', file=sys.{stream})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=os.path.dirname(os.path.dirname(console.__file__)),
        **{"stdin": subprocess.PIPE, stream: subprocess.PIPE},
    )
    with getattr(process, stream) as pipe:
        assert pipe.readline() == b"read\n"
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def run_main(arguments, redirections):
    command = shlex.join([sys.executable, main.__file__, *arguments])
    done = subprocess.run(f"{command} {redirections}", shell=True, stderr=subprocess.PIPE)
    return done.returncode, done.stderr.decode()


def test_a_full_disk_under_the_standard_output_is_an_error(tmp_path):
    command = ["compare", str(main.SAVED_MODELS / "fast"), "--output", str(tmp_path)]
    code, err = run_main(command, "> /dev/full")
    assert code == 6
    assert err == (
        "error: cannot write standard output: No space left on device; free some space, or name a "
        "place on another disk\n"
    )


def test_closed_standard_streams_do_not_give_their_numbers_to_files(tmp_path):
    script = (
        "import os, sys\n"
        "from machine.console import lasting_streams\n"
        "with lasting_streams(), open(sys.argv[1], 'w') as file:\n"
        "    print('unheard')\n"
        "    os.write(2, b'unheard')\n"
        "    file.write(str(file.fileno() > 2))\n"
    )
    command = shlex.join([sys.executable, "-c", script, str(tmp_path / "file")])
    cwd = os.path.dirname(main.__file__)
    assert subprocess.run(f"{command} <&- >&- 2>&-", shell=True, cwd=cwd).returncode == 0
    assert (tmp_path / "file").read_text() == "True"


def test_tensorflow_is_imported_without_a_standard_error():
    assert run_main(["describe", "--preset", "quickstart"], "> /dev/null 2>&-") == (0, "")


def test_a_terminal_without_unicode_gets_escapes():
    script = (
        "from machine.console import lasting_streams\n"
        "with lasting_streams(): print('\\u2192 caf\\xe9')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=os.path.dirname(os.path.dirname(console.__file__)),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\\u2192 caf\\xe9\n"
