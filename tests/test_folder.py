"""runs/folder.py: which run a folder holds, and that nothing else in it is touched."""

import errno
import fcntl
import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from saved import FINISHED, RECORD, changed

from machine.errors import RunError, StorageError
from runs.folder import LOCK_FILE, Run
from runs.record import write_record
from runs.state import PREVIOUS_STATE_FILE, STATE_FILE
from runs.weights import MEAN_FILE, WEIGHTS_FILE

ARRAYS = {"network/0": np.arange(6, dtype=np.float32)}


@pytest.fixture
def folder(tmp_path):
    with Run(tmp_path / "run", RECORD) as run:
        run.save_state(ARRAYS, {"step": 1})
        run.save_state(ARRAYS, {"step": 2})
    return tmp_path / "run"


def begin(folder, record=RECORD, fresh=False):
    with Run(folder, record) as run:
        return run.begin(fresh)


def load(folder):
    with Run(folder, RECORD) as run:
        return run.load_state()


def finish(folder, record=FINISHED):
    """Weights, a mean image and a run.json that describes them."""
    for name in (WEIGHTS_FILE, MEAN_FILE):
        (folder / name).write_bytes(b"data")
    sha256 = hashlib.sha256(b"data").hexdigest()
    digests = {"weights_file_sha256": sha256, "mean_file_sha256": sha256}
    write_record(folder, {**record, **digests})


# Folders of something else


def listing(folder):
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ["thesis.tex"],
        ["main.py", ".git/config"],
        ["run/run.json"],
        ["run.json", "thesis.tex"],
        ["classes.png"],
    ],
)
def test_a_folder_of_something_else_is_refused_untouched(tmp_path, names, fresh):
    folder = tmp_path / "own"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"years of work")
    before = listing(tmp_path)
    with pytest.raises(RunError, match="expected a new or empty folder"):
        begin(folder, fresh=fresh)
    assert listing(tmp_path) == before and os.listdir(tmp_path) == ["own"]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_that_is_as_good_as_empty_is_used(tmp_path, fresh):
    folder = tmp_path / "run"
    (folder / "lost+found").mkdir(parents=True)
    for name in (".lock", "classes.png", ".classes.png.99-0123abcd.tmp"):
        (folder / name).touch()
    assert begin(folder, fresh=fresh)
    assert os.listdir(tmp_path) == ["run"]
    assert not list(folder.glob(".*.tmp"))


def test_what_lies_beside_a_run_moves_with_it(folder):
    (folder / "notes.txt").write_bytes(b"mine")
    assert begin(folder, fresh=True)
    assert (folder.with_name("run-1") / "notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES])
def test_a_folder_that_cannot_be_moved_has_a_remedy_that_works(folder, monkeypatch, number):
    def rename(*_):
        raise OSError(number, os.strerror(number))

    before = listing(folder)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StorageError, match=f"{os.strerror(number)}; a mount point.*--save-dir"):
        begin(folder, fresh=True)
    assert listing(folder) == before
    assert begin(folder / "2", fresh=True)


# Which run a folder holds


def test_the_same_run_goes_on(folder):
    assert begin(folder)
    assert load(folder)[1] == {"step": 2}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"hardware__processor": "b"}, "hardware processor: was a, is b"),
        ({"hardware__cores": 4}, "hardware cores: was 2, is 4"),
        (
            {"precision__used": "bfloat16", "model_configs__precision": "bfloat16"},
            "precision used: was",
        ),
    ],
)
def test_another_machine_is_a_warning(folder, changes, difference):
    with pytest.warns(UserWarning, match=f"bits may differ: {difference}"):
        assert begin(folder, changed(**changes))


def test_another_kind_of_unfinished_run_is_refused_with_what_helps(folder):
    other = changed(training_configs__learning_rate=0.2, versions__tensorflow="2.22.0")
    with pytest.raises(RunError) as caught:
        begin(folder, other)
    for words in ("learning_rate: was 0.1, is 0.2", "tensorflow: was 2.21.0", "--init-from"):
        assert words in str(caught.value)
    assert load(folder)[1] == {"step": 2}


def test_every_machine_that_a_run_went_on_with_is_told(folder):
    for cores in (4, 4, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Run(folder, changed(hardware__cores=cores)) as run:
                run.begin(False)
                run.save_state(ARRAYS, {"step": 3})
    assert run.machine_changes == ["hardware cores: was 2, is 4", "hardware cores: was 4, is 2"]


def test_a_finished_run_has_nothing_to_do(folder):
    finish(folder)
    assert not begin(folder)
    (folder / STATE_FILE).write_bytes(b"damaged")
    (folder / PREVIOUS_STATE_FILE).unlink()
    assert not begin(folder)
    (folder / STATE_FILE).unlink()
    assert not begin(folder)


@pytest.mark.parametrize("used", ["float32", "bfloat16"])
@pytest.mark.parametrize("taken", ["float32", "bfloat16"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_finished_run_is_another_one_if_another_precision_is_asked_for(
    folder, used, taken, asked
):
    finish(folder, changed(FINISHED, precision__used=used, model_configs__precision="auto"))
    configs = {"model_configs__precision": taken if asked else "auto"}
    another = begin(folder, changed(precision__used=taken, **configs))
    assert another == (asked and used != taken)


def test_a_finished_run_of_another_kind_is_moved_aside_whole(folder, capsys):
    finish(folder)
    files = sorted(os.listdir(folder))
    assert begin(folder, changed(training_configs__epochs=3))
    assert os.listdir(folder) == [LOCK_FILE]
    assert sorted(os.listdir(folder.with_name("run-1"))) == files
    assert "run-1 (epochs: was 2, is 3)" in capsys.readouterr().out


def test_a_run_whose_weights_are_gone_is_not_finished(folder):
    finish(folder)
    (folder / WEIGHTS_FILE).write_bytes(b"others")
    assert begin(folder)
    assert load(folder)[1] == {"step": 2}
    for name in (STATE_FILE, PREVIOUS_STATE_FILE):
        (folder / name).unlink()
    assert begin(folder)
    assert (folder.with_name("run-1") / "run.json").exists()


def test_a_run_is_not_cut_shorter_than_its_state(tmp_path):
    constant = changed(FINISHED, training_configs__schedule="constant")
    with Run(tmp_path, changed(constant, training_configs__epochs=12)) as run:
        run.save_state(ARRAYS, {"step": 11})
    finish(tmp_path, constant)
    with pytest.raises(RunError, match="epochs: was 12, is 11"):
        begin(tmp_path, changed(constant, training_configs__epochs=11))


def test_another_process_may_take_the_folder_that_a_run_has_left(folder, monkeypatch):
    def taken(*_):
        raise BlockingIOError

    finish(folder)
    with Run(folder, changed(dataset="cifar10")) as run:
        monkeypatch.setattr(fcntl, "flock", taken)
        with pytest.raises(RunError, match="found another process training into it"):
            run.begin(False)


def test_a_finished_run_without_its_state_cannot_be_extended(tmp_path):
    constant = changed(FINISHED, training_configs__schedule="constant")
    for name in ("with", "without"):
        with Run(tmp_path / name, constant) as run:
            run.save_state(ARRAYS, {"step": 2})
        finish(tmp_path / name, constant)
    (tmp_path / "without" / STATE_FILE).unlink()
    (tmp_path / "without" / PREVIOUS_STATE_FILE).unlink(missing_ok=True)
    for name in ("with", "without"):
        with Run(tmp_path / name, changed(constant, training_configs__epochs=3)) as run:
            assert run.begin(False) and run.extends == (name == "with")
    assert sorted(path.name for path in tmp_path.glob("w*")) == ["with", "without", "without-1"]


def test_fresh_moves_any_run_aside_and_never_over_another(folder):
    for number in (1, 2):
        assert begin(folder, fresh=True)
        with Run(folder, RECORD) as run:
            run.save_state(ARRAYS, {"step": number})
    assert begin(folder, fresh=True)
    assert load(folder) is None
    assert [load(folder.with_name(f"run-{n}"))[1]["step"] for n in (1, 2, 3)] == [2, 1, 2]


def test_one_process_at_a_time(folder):
    # The lock is of an open file: two of one process exclude each other as two processes do.
    with Run(folder, RECORD), pytest.raises(RunError, match="another process training into it"):
        begin(folder)
    assert begin(folder)
