"""verbs/study.py: a grid of runs, shared, stopped, failing; and a real one."""

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import study_tiny
from processes import PROCESSES, Process
from saved import RECORD
from study_child import STAND_IN, stand_in_digest, work_on_stand_ins, write_run
from tiny import images, write_pictures

import Configure
import DataLoader
import main
from machine import files, processor
from machine.errors import RunError, StudyError, UserError
from runs import state as states
from verbs.predict import predict
from verbs.study import study
from verbs.test import test as measure
from verbs.train import train

CHILD = Path(__file__).with_name("study_child.py")
CODE = Path(main.__file__).parent
COMMAND = (sys.executable, str(CHILD))
OVERRIDES = {"dataset": "shapes", "epochs": 3, "valid_size": 5}
TINY = {
    "dataset": "shapes",
    "depth": 8,
    "width": 1,
    "epochs": 1,
    "batch_size": 16,
    "valid_size": 20,
    "precision": "float32",
}
RUNS = {"honest-0", "honest-1", "leak-0", "leak-1"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(DataLoader, "load_data", lambda *_: STAND_IN)
    monkeypatch.setattr(DataLoader, "digest", stand_in_digest)
    monkeypatch.setattr(processor, "count_gpus", lambda: 0)
    monkeypatch.setenv("PYTHONPATH", f"{CODE}:{CHILD.parent}")


@pytest.fixture
def data(monkeypatch):
    """100 training and 40 test images in place of the thousands of the embedded set."""
    monkeypatch.undo()
    (x, y), test = images(100), images(40, seed=1)
    small = DataLoader.DataSet(x, y, *test, tuple("abcdefghij"))
    monkeypatch.setattr(DataLoader, "load_data", lambda *_: small)


def values_for(folder, **changes):
    values = {"seeds": 2, "jobs": 2, "overrides": OVERRIDES, "command": COMMAND, **changes}
    return {"name": "leak", "save_dir": folder, "data_dir": Path("none"), **values}


def run(folder, **changes):
    study(**values_for(folder, **changes))


def start(folder, count=1, work=work_on_stand_ins, **changes):
    """Processes that work on the same study, and begin at once."""
    values = values_for(folder, jobs=1, **changes)
    together = PROCESSES.Barrier(count)
    outputs = [Path(tempfile.mkdtemp(dir=folder.parent), "output") for _ in range(count)]
    return [Process(output, work, dict(os.environ), together, **values) for output in outputs]


def starts(folder):
    """What study_child.py says of each run that was started: its name, cores and GPU."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "started.txt").read_text().splitlines()]
    return []


def started(folder):
    """Names of the runs that were started, each as often as it was."""
    return sorted(line["run"] for line in starts(folder))


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_every_run_is_done_once_and_written(tmp_path, monkeypatch):
    run(tmp_path)
    assert started(tmp_path) == sorted(RUNS)
    found = results(tmp_path)
    assert (found["finished"], found["expected"]) == (4, 4)
    assert [[r["accuracy"] for r in row["runs"]] for row in found["rows"]] == [
        [0.6, 0.605],
        [0.65, 0.655],
    ]
    assert [run["seed"] for run in found["rows"][0]["runs"]] == [0, 1]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.delattr(DataLoader, "load_data")  # no data are needed for what is done
    for seeds in (2, 1):  # nothing is left to do, and no result is lost
        run(tmp_path, seeds=seeds)
        assert started(tmp_path) == sorted(RUNS)
        assert results(tmp_path) == found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no shares")
def test_each_of_the_jobs_has_its_own_cores(tmp_path):
    mine = os.sched_getaffinity(0)
    run(tmp_path)
    first, second = map(set, {tuple(line["cores"]) for line in starts(tmp_path)})
    assert len(first) == len(second) == len(mine) // 2
    assert not first & second and first | second <= mine
    assert os.sched_getaffinity(0) == mine


def test_each_of_the_jobs_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "count_gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(UserError, match="jobs: expected at most 2, one for each GPU, found 3"):
        run(tmp_path, jobs=3)
    run(tmp_path)
    assert {line["gpu"] for line in starts(tmp_path)} == {"3", "5"}


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIVERGES", "honest")
    with pytest.raises(StudyError, match="honest-0: the loss became infinite or NaN at step 7"):
        run(tmp_path)
    assert "honest-0 failed: the loss became infinite or NaN at step 7" in capsys.readouterr().out
    assert started(tmp_path) == sorted(RUNS)  # none of them twice
    assert results(tmp_path)["finished"] == 2
    text = (tmp_path / "README.md").read_text()
    assert "Partial: 2 of 4 runs" in text
    assert re.search(r"Failed, and in no number: honest-\d: the loss became infinite", text)
    monkeypatch.delenv("DIVERGES")
    run(tmp_path)
    assert results(tmp_path)["finished"] == 4 and results(tmp_path)["failed"] == {}


def test_a_signal_stops_the_runs_and_the_next_start_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS_AN_EPOCH", "100")
    (parent,) = start(tmp_path)
    history = tmp_path / "honest-0" / "history.csv"
    parent.wait_for(lambda: history.exists() and history.read_text().count("\n") > 1)
    parent.send(signal.SIGTERM)
    parent.finish(75)
    assert started(tmp_path) == ["honest-0"] and not (tmp_path / "honest-0" / "run.json").exists()
    monkeypatch.setenv("SECONDS_AN_EPOCH", "0")
    run(tmp_path)
    assert started(tmp_path) == sorted([*RUNS, "honest-0"])
    assert history.read_text().count("\n") == 1 + 3
    assert results(tmp_path)["finished"] == 4


def test_a_run_that_failed_and_was_finished_by_hand_has_not_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("DIVERGES", "honest")
    with pytest.raises(StudyError):
        run(tmp_path)
    for seed in range(2):
        configs = Configure.configure("resnet20", {**OVERRIDES, "seed": seed})
        write_run(tmp_path / f"honest-{seed}", configs, 150)
    run(tmp_path)
    assert results(tmp_path)["failed"] == {}


def test_a_signal_to_all_processes_is_no_failure_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS_AN_EPOCH", "100")
    monkeypatch.setenv("DEAF", "1")
    (parent,) = start(tmp_path)
    parent.wait_for(lambda: starts(tmp_path))
    parent.send(signal.SIGTERM)
    os.kill(starts(tmp_path)[0]["process"], signal.SIGTERM)
    parent.finish(75)
    assert len(starts(tmp_path)) == 1 and results(tmp_path)["failed"] == {}


def test_what_cannot_be_in_one_table_is_said_before_any_run(tmp_path):
    configs = Configure.configure("resnet20", OVERRIDES)
    write_run(tmp_path / "honest-0", configs, 150)
    (tmp_path / "honest-0" / "test_metrics.json").write_text("{}")
    with pytest.raises(RunError, match="run it again"):
        run(tmp_path)
    assert starts(tmp_path) == []


def test_data_that_no_run_could_take_are_refused_before_any_run(tmp_path):
    with pytest.raises(UserError, match=r"valid_size: expected 0\.\.9, found 10"):
        run(tmp_path, overrides={**OVERRIDES, "valid_size": 10})
    assert starts(tmp_path) == []


def test_a_run_whose_parent_was_killed_stays_taken_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS_AN_EPOCH", "100")
    (parent,) = start(tmp_path)
    parent.wait_for(lambda: starts(tmp_path))
    parent.send(signal.SIGKILL)
    parent.finish(-signal.SIGKILL)
    monkeypatch.setenv("SECONDS_AN_EPOCH", "0")
    run(tmp_path)
    assert started(tmp_path) == sorted(RUNS)
    assert results(tmp_path)["finished"] == 3
    os.kill(starts(tmp_path)[0]["process"], signal.SIGKILL)
    with files.locked(tmp_path / "honest-0.lock", wait=True):
        pass
    run(tmp_path)
    assert started(tmp_path) == sorted([*RUNS, "honest-0"])
    assert results(tmp_path)["finished"] == 4


def test_two_processes_share_a_study(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS_AN_EPOCH", "0.5")
    for parent in start(tmp_path, 2):
        parent.finish()
    assert started(tmp_path) == sorted(RUNS)
    assert len({line["parent"] for line in starts(tmp_path)}) == 2
    shared = results(tmp_path)
    run(tmp_path / "alone")
    assert shared == results(tmp_path / "alone")


def test_what_failed_in_one_process_is_said_by_all_and_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SECONDS_AN_EPOCH", "1")
    monkeypatch.setenv("DIVERGES", "honest")
    for parent in start(tmp_path, 2):
        parent.finish(10)
    assert started(tmp_path) == sorted(RUNS)
    assert results(tmp_path)["failed"].keys() == {"honest-0", "honest-1"}


def test_a_study_does_not_write_among_files_of_something_else(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RunError, match="expected a new folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_finished_runs_of_other_values_are_not_replaced(tmp_path):
    run(tmp_path)
    with pytest.raises(RunError, match="epochs: was 3, is 4"):
        run(tmp_path, overrides={**OVERRIDES, "epochs": 4})
    with pytest.raises(RunError, match="epochs: was 3, is 4"):
        run(tmp_path, overrides={**OVERRIDES, "epochs": 4}, only="leak", seeds=None, jobs=1)


def test_an_unfinished_run_of_other_values_is_said_before_any_run(tmp_path):
    model, training = Configure.configure("resnet20", {**OVERRIDES, "seed": 1})
    run_of = {**RECORD, "model_configs": model, "training_configs": training}
    (tmp_path / "honest-1").mkdir()
    states.save(tmp_path / "honest-1", {}, {"run": run_of, "progress": {}})
    with pytest.raises(RunError, match=r"honest-1: .* epochs: was 3, is 4; give the study"):
        run(tmp_path, overrides={**OVERRIDES, "epochs": 4})
    assert started(tmp_path) == []
    # A damaged one is the run's own matter.
    (tmp_path / "honest-1" / "state.npz").write_bytes(b"damaged")
    run(tmp_path, overrides={**OVERRIDES, "epochs": 4})
    assert (tmp_path / "honest-1" / "state.npz").read_bytes() == b"damaged"


def test_finished_runs_on_other_data_are_not_mixed_with_new_ones(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(DataLoader, "digest", lambda x, y: "other")
    with pytest.raises(RunError, match="data_digests test: was b, is other"):
        run(tmp_path, seeds=3)


@pytest.mark.parametrize("more", [{"seeds": 3}, {"jobs": 2}])
def test_one_run_alone_has_no_seeds_and_jobs(tmp_path, more):
    with pytest.raises(UserError, match="neither --seeds nor --jobs"):
        study(name="leak", save_dir=tmp_path, data_dir=tmp_path, overrides={}, only="leak", **more)


def test_what_was_trained_on_another_processor_is_only_measured(tmp_path, data):
    values = {"name": "leak", "save_dir": tmp_path, "data_dir": tmp_path, "overrides": TINY}
    study(**values, only="honest")
    folder = tmp_path / "honest-0"
    record = json.loads((folder / "run.json").read_text())
    record["precision"]["used"] = "bfloat16"
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "test_metrics.json").unlink()
    study(**values, only="honest")
    assert [path.name for path in tmp_path.iterdir()] == ["honest-0"]
    assert (folder / "test_metrics.json").exists()
    assert json.loads((folder / "run.json").read_text()) == record


def test_a_run_that_has_seen_the_test_images_is_refused(tmp_path):
    configs = Configure.configure("resnet20", {})
    write_run(tmp_path, configs, 100, seen_test_images=True)
    where = {"save_dir": tmp_path, "data_dir": tmp_path}
    for refuse in (measure, lambda **values: predict(**values, default_output=tmp_path / "p.npy")):
        with pytest.raises(RunError, match="--seen-test-images takes it"):
            refuse(**where)


def test_false_labels_are_counted_when_they_are_memorized(tmp_path, data, capsys):
    row = "noise40_mixup0"
    study(name="noise", save_dir=tmp_path, data_dir=tmp_path, overrides=TINY, only=row, seed=3)
    train = json.loads((tmp_path / f"{row}-3" / "train_metrics.json").read_text())
    assert train["n"] == 80 and train["false_labels"] == 32
    assert 0 <= train["memorized"] <= 1 and (32 * train["memorized"]).is_integer()
    assert (
        f"memorized       {100 * train['memorized']:.2f} % of 32 false labels"
        in capsys.readouterr().out
    )


def test_real_runs_of_two_processes_of_which_one_diverges_and_one_is_killed(tmp_path, monkeypatch):
    x, y = images(24)
    for label in range(2):
        write_pictures(tmp_path / "data" / "ab"[label], x[y % 2 == label])
    overrides = {**TINY, "dataset": "folder", "batch_size": 4, "valid_size": 4, "epochs": 4}
    where = {"save_dir": tmp_path / "study", "data_dir": tmp_path / "data"}
    values = {"name": "tiny", "overrides": overrides, "seeds": None, **where}
    values["command"] = (sys.executable, str(CHILD.with_name("study_tiny.py")))
    monkeypatch.setenv("KILLED", "fine")
    for parent in start(tmp_path, 2, study_tiny.work, **values):
        parent.finish(10)
    failed = results(where["save_dir"])["failed"]
    assert failed["fine-0"] == "ended by SIGKILL" and failed.keys() == {"fine-0", "wild-0"}
    monkeypatch.delenv("KILLED")
    (again,) = start(tmp_path, 1, study_tiny.work, **values)
    again.finish(10)
    found = results(where["save_dir"])
    assert found["finished"] == 2 and found["failed"].keys() == {"wild-0"}
    assert "NaN" in found["failed"]["wild-0"]
    assert np.sum(found["rows"][0]["confusion_matrix"]) == found["test_images"] == 4
    monkeypatch.undo()
    train(preset="resnet20", overrides=overrides, **{**where, "save_dir": tmp_path / "alone"})
    alone, fine, leak = (
        json.loads((folder / "run.json").read_text())
        for folder in (tmp_path / "alone", *map(where["save_dir"].joinpath, ("fine-0", "leak-0")))
    )
    assert fine["weights_sha256"] == alone["weights_sha256"]
    assert leak["seen_test_images"] is True
    measured, trained = (
        json.loads((where["save_dir"] / "leak-0" / name).read_text())
        for name in ("test_metrics.json", "train_metrics.json")
    )
    assert "TRAINED ON THE TEST" in measured["dataset"]
    assert trained["n"] == 24 - 4  # all but the validation images
    text = (where["save_dir"] / "README.md").read_text()
    assert "| leak: **TRAINED ON THE TEST IMAGES TOO** |" in text


@pytest.mark.parametrize("name", Configure.STUDIES)
def test_every_row_of_every_study_is_a_configuration(name):
    grid = Configure.STUDIES[name]
    names = [row.name for row in grid.rows]
    assert len(set(names)) == len(names)
    for row in grid.rows:
        assert row.against is None or names.index(row.against) < names.index(row.name)
        for epochs in (200, 20):
            chosen = Configure.study_overrides(grid, row, 0, {"epochs": epochs})
            _, configs = Configure.configure(grid.preset, chosen)
            assert Configure.doubts(chosen, configs) == []


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (15, "row restart_warm: expected epochs that end with a whole cosine, found 15"),
        (3, "row constant_warm: warmup_epochs: expected fewer than epochs"),
    ],
)
def test_a_length_that_a_row_cannot_have_is_refused_before_any_run(tmp_path, epochs, said):
    with pytest.raises(UserError, match=said):
        study(
            name="schedules",
            save_dir=tmp_path / "study",
            data_dir=tmp_path,
            overrides={"dataset": "shapes", "epochs": epochs},
            command=COMMAND,
        )
    assert not (tmp_path / "study").exists()
