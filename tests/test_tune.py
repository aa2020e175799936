"""main.py tune: one search in one database, whoever works on it."""

import io
import re
import time
import types

import numpy as np
import pytest
from PIL import Image
from tiny import images

import Configure
import main
from DataLoader import DataSet
from machine.errors import DivergedError, InterruptedRunError
from sources import shapes

optuna = pytest.importorskip("optuna", reason="requirements-extra.txt is not installed")

from verbs import tune  # noqa: E402

X, Y = images(90)  # 20 of them for validation: batches of 128 do not fit


class Trainer:
    """Stands for ``Model``: learns nothing, and reports the accuracies of its plan."""

    plan = ()  # of each trial: an accuracy for each epoch, or an exception
    seen = ()  # what each trial was given

    def __init__(self, model_configs, num_classes):
        self.configs = model_configs

    def train(self, x, y, configs, x_valid, y_valid, stop, on_epoch):
        accuracies = Trainer.plan[len(Trainer.seen) % len(Trainer.plan)]
        Trainer.seen.append({**self.configs, **configs})
        if isinstance(accuracies, BaseException):
            raise accuracies
        history = []
        for number, accuracy in enumerate(accuracies, 1):
            history.append({"epoch": number, "valid_accuracy": accuracy})
            on_epoch(history[-1], history, len(accuracies), 0.0)
        return types.SimpleNamespace(history=history)


def fail(_):
    raise RuntimeError("not wanted here")


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """Run a search in this process; gives exit code, output and errors."""
    # Whoever looks at the test images finds none.
    data = DataSet(X, Y, None, None, tuple(shapes.CLASS_NAMES))
    monkeypatch.setattr("DataLoader.load_data", lambda *_: data)

    def run(*flags, plan=None):
        if plan is not None:
            monkeypatch.setattr("Model.Model", Trainer)
            monkeypatch.setattr(Trainer, "plan", plan)
            monkeypatch.setattr(Trainer, "seen", [])
            # The forest that finds the importance of each value takes seconds.
            monkeypatch.setattr(optuna.visualization.matplotlib, "plot_param_importances", fail)
        words = ["tune", "--preset", "quickstart", "--valid-size", "20", "--save-dir", tmp_path]
        return main.main([*map(str, words), *flags]), *capsys.readouterr()

    return run


def trials(folder):
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{folder / tune.DATABASE}")
    return [trial.state.name for trial in study.trials]


def test_a_search_trains_and_draws_and_prints_a_command(search, tmp_path, trained_by):
    flags = ("--width", "2", "--batch-size", "8", "--precision", "float32", "--optimizer", "adam")
    code, out, err = search(*flags, "--epochs", "1", "--trials", "1")
    assert code == 0, err
    assert trials(tmp_path) == ["COMPLETE"]
    picture = Image.open(io.BytesIO((tmp_path / "optimization_history.png").read_bytes()))
    assert np.asarray(picture).std() > 0
    given = trained_by(re.search(r"^python main.py (train .*)$", out, re.M)[1])
    asked = {"width", "batch_size", "precision", "valid_size", "optimizer"}
    drawn = set(given["overrides"]) - asked
    assert drawn <= set(Configure.TUNED) and "learning_rate" in drawn
    assert not {"epochs", "momentum"} & set(given["overrides"])  # adam has no momentum
    assert given["overrides"]["batch_size"] == 8


def test_values_are_in_their_ranges_and_what_was_given_stays(search):
    search("--optimizer", "sgd", "--l2", "0.5", "--trials", "8", plan=[[0.5]])
    assert {configs["l2"] for configs in Trainer.seen} == {0.5}
    for name, values in Configure.TUNED.items():
        found = {configs[name] for configs in Trainer.seen}
        if name != "l2":
            assert len(found) > 1
            if name == "batch_size":
                assert found == {32, 64}
            else:
                assert all(values.low <= value <= values.high for value in found)


def test_no_rate_is_drawn_below_the_lowest_of_the_schedule(search):
    code, _, err = search("--eta-min", "0.02", "--trials", "6", plan=[[0.5]])
    assert (code, err) == (0, "")
    assert all(0.02 <= configs["learning_rate"] <= 0.3 for configs in Trainer.seen)


def test_a_search_warns_of_what_its_trials_do_not_show(search):
    _, _, err = search("--nesterov", "--schedule", "cosine", "--t-0", "8", "--trials", "0")
    assert "warning: nesterov has no effect" in err
    assert "warning: epochs: the run ends in the middle of a cosine" in err
    # Its momentum is drawn.
    assert "warning" not in search("--optimizer", "sgd", "--nesterov", "--trials", "0")[2]


def test_a_search_goes_on_where_it_was(search, tmp_path):
    search("--trials", "2", plan=[[0.1]])
    code, out, _ = search("--trials", "3", plan=[[0.9]])
    assert code == 0 and len(Trainer.seen) == 1 and "90.00 %" in out
    assert search("--trials", "3", plan=[[0.1]])[0] == 0
    assert Trainer.seen == []


def test_the_same_search_draws_the_same(search, tmp_path):
    search("--trials", "4", plan=[[0.1], [0.2]])
    before = Trainer.seen
    (tmp_path / tune.DATABASE).unlink()
    search("--trials", "4", plan=[[0.1], [0.2]])
    assert Trainer.seen == before


def test_a_bad_trial_ends_early_and_a_diverged_one_counts(search, tmp_path):
    good, bad = [0.5, 0.9], [0.1, 1.0]
    code, _, err = search("--trials", "7", plan=[*[good] * 5, bad, DivergedError("infinite")])
    assert code == 0, err
    assert trials(tmp_path) == ["COMPLETE"] * 5 + ["PRUNED"] * 2


def test_a_signal_ends_the_search_and_the_next_goes_on(search, tmp_path):
    code, _, err = search("--trials", "3", plan=[[0.5], InterruptedRunError("stopped")])
    assert (code, err.count("\n")) == (75, 1)
    code, out, _ = search("--trials", "3", plan=[[0.5]])
    assert code == 0 and "best of 3 trials: trial 0, valid accuracy 50.00 %" in out
    assert trials(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_the_trial_of_a_killed_process_is_failed(search, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(tune, "STALE_SECONDS", 1)
    with pytest.raises(SystemExit):
        search("--trials", "2", plan=[[0.5], SystemExit()])
    assert trials(tmp_path) == ["COMPLETE", "RUNNING"]
    time.sleep(2.5)
    assert search("--trials", "2", plan=[[0.5]])[0] == 0
    assert trials(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE"]


def test_the_database_of_another_search_is_refused(search, tmp_path):
    search("--trials", "1", plan=[[0.5]])
    for flags in (["--epochs", "3"], ["--depth", "14"], ["--l2", "0.1"]):
        code, _, err = search("--trials", "2", *flags, plan=[[0.5]])
        assert (code, err.count("\n")) == (5, 1)
    assert trials(tmp_path) == ["COMPLETE"]


def test_what_is_no_database_is_refused_and_left(search, tmp_path):
    (tmp_path / tune.DATABASE).write_text("notes" * 1000)
    code, _, err = search(plan=[[0.5]])
    assert (code, err.count("\n")) == (5, 1)
    assert (tmp_path / tune.DATABASE).read_text() == "notes" * 1000


def test_there_must_be_images_to_choose_by(search):
    code, _, err = search("--valid-size", "0")
    assert (code, err.count("\n")) == (2, 1)
