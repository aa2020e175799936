"""Search for a better configuration by short trainings, judged on the validation images."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import Configure
import DataLoader
from machine import extras, files, processor
from machine.console import Signals
from machine.errors import DivergedError, InterruptedRunError, RunError, UserError
from runs import record as records
from verbs.train import training_data

DATABASE = "trials.db"
EPOCHS = 10  # of a trial, unless --epochs
HEARTBEAT_SECONDS = 10
STALE_SECONDS = 60  # after so long without a heartbeat, the process of a trial is gone


def tune(
    *,
    preset: str,
    overrides: dict[str, Any],
    save_dir: Path,
    data_dir: Path,
    mirror: str | None = None,
    trials: int = 50,
    minutes: float | None = None,
) -> None:
    """Train with values drawn from ``Configure.TUNED``, and tell which were best.

    The trials are in ``trials.db``, which several processes may share: each goes on from what is
    there. The test images are not used.

    Args:
        preset: a key of ``Configure.PRESETS``.
        overrides: values by key that all trials have; they are not searched.
        save_dir: folder of the database and the pictures.
        data_dir: folder of the data.
        mirror: address to download CIFAR-10 or CIFAR-100 from.
        trials: finished and pruned trials to end with, those that are there included.
        minutes: no new trial begins after so long.

    Raises:
        RunError: the database is of another search, or is none.
        UserError: see ``machine.errors`` for what else can go wrong.
    """
    extras.require("optuna")
    overrides = dict(overrides)
    epochs = overrides.pop("epochs", EPOCHS)
    given = {**overrides, "epochs": epochs}
    model_configs, training_configs = Configure.configure(preset, given)
    seed = model_configs["seed"]
    if not training_configs["valid_size"]:
        raise UserError("valid_size: expected images to choose by, found 0; give --valid-size 5000")
    data = DataLoader.load_data(data_dir, training_configs["dataset"], mirror)
    split = training_data(data, seed, training_configs)
    searched = {
        name: values
        for name, values in Configure.TUNED.items()
        if name not in overrides and not Configure.why_no_effect(name, training_configs)
    }
    drawn = {name: values.high or values.choices[-1] for name, values in searched.items()}
    for line in Configure.doubts(given, {**training_configs, **drawn}):
        warnings.warn(line, stacklevel=1)
    # What could not be trained is not drawn.
    if rate := searched.get("learning_rate"):
        low = max(rate.low, training_configs["eta_min"])
        searched["learning_rate"] = rate._replace(low=low)
    if batch := searched.get("batch_size"):
        fitting = tuple(size for size in batch.choices if size <= len(split[0]))
        searched["batch_size"] = batch._replace(choices=fitting or batch.choices[:1])
    search = {
        "preset": preset,
        "model_configs": model_configs,
        "training_configs": training_configs,
        "train_digest": DataLoader.digest(data.x_train, data.y_train),
        "searched": {name: list(values) for name, values in searched.items()},
    }
    processor.prepare_tensorflow()
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # What Optuna warns of is its own: interfaces that may change, trials too few for a picture.
    with warnings.catch_warnings(), Signals() as signals:
        warnings.simplefilter("ignore")
        study = _open_study(save_dir, json.loads(json.dumps(search)))
        ended = (TrialState.COMPLETE, TrialState.PRUNED)

        def objective(trial):
            # Of the trial's own seed: processes that share a search do not draw the same.
            trial.study.sampler = optuna.samplers.TPESampler(seed=seed + trial.number)
            drawn = {name: _draw(trial, name, values) for name, values in searched.items()}
            trial.set_user_attr("overrides", drawn)
            configs = Configure.configure(preset, {**given, **drawn})
            return _train(trial, configs, split, len(data.class_names), signals)

        if len(study.get_trials(states=ended)) < trials:
            try:
                study.optimize(
                    objective,
                    timeout=None if minutes is None else 60 * minutes,
                    callbacks=[_print_trial, optuna.study.MaxTrialsCallback(trials, ended)],
                )
            except InterruptedRunError as error:
                raise InterruptedRunError(
                    f"stopped; the trials before are in {save_dir / DATABASE}; the same command "
                    "goes on from there"
                ) from error
        _draw_study(save_dir, study)
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            raise RunError(f"{save_dir}: expected a trial that finished, found none; try more")
        best = study.best_trial
    command = ["python", "main.py", "train", "--preset", preset, "--save-dir", save_dir / "best"]
    if training_configs["dataset"] != "shapes":
        command += ["--data-dir", data_dir]
    command += Configure.flags({**overrides, **best.user_attrs["overrides"]})
    count = len(study.get_trials(states=ended))
    print(
        f"best of {count} trials: trial {best.number}, valid accuracy {100 * best.value:.2f} % "
        f"after {_epochs(epochs)}; to train it in full:\n{shlex.join(map(str, command))}"
    )


def _draw(trial, name: str, values: Configure.Range):
    if values.choices:
        return trial.suggest_categorical(name, values.choices)
    drawn = trial.suggest_float(name, values.low, values.high, log=values.log)
    # Three digits: what is printed is what was trained.
    return max(values.low, float(f"{drawn:.3g}"))


def _train(trial, configs, split, num_classes: int, signals) -> float:
    """The validation accuracy after the last epoch."""
    import keras
    import optuna

    from Model import Model

    keras.backend.clear_session()
    model_configs, training_configs = configs

    def on_epoch(row, *_):
        trial.report(row["valid_accuracy"], row["epoch"])
        if row["epoch"] < training_configs["epochs"] and trial.should_prune():
            raise optuna.TrialPruned

    model = Model(model_configs, num_classes=num_classes)
    try:
        progress = model.train(
            *split[:2],
            training_configs,
            *split[2:],
            stop=lambda step: signals.received(),
            on_epoch=on_epoch,
        )
    except DivergedError as error:
        raise optuna.TrialPruned from error
    return progress.history[-1]["valid_accuracy"]


def _open_study(folder: Path, search: dict):
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    path = folder / DATABASE
    with files.storing(path):
        folder.mkdir(parents=True, exist_ok=True)
    # Two processes must not make the tables together. Of another file than the database, which
    # SQLite locks: on NFS the two locks would exclude each other.
    with files.locked(folder / f".{DATABASE}.lock", wait=True):
        try:
            study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    URL.create("sqlite", database=str(path)).render_as_string(),
                    engine_kwargs={"connect_args": {"timeout": 60}},
                    heartbeat_interval=HEARTBEAT_SECONDS,
                    grace_period=STALE_SECONDS,
                ),
                study_name="tune",
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(),
                load_if_exists=True,
            )
            found = study.user_attrs.get("search")
            if found is None and not study.trials:
                study.set_user_attr("search", search)
                return study
        except (SQLAlchemyError, RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise RunError(f"{path}: expected a database of trials, found {line}") from error
    differences = records.differences(found or {}, search, tuple(search), strict=True)
    if differences:
        raise RunError(
            f"{path}: expected trials of this search, found other values: "
            f"{'; '.join(differences)}; use the old values, or another --save-dir"
        )
    return study


def _print_trial(study, trial) -> None:
    accuracies = [100 * value for value in trial.intermediate_values.values()]
    last = f"{accuracies[-1]:.2f} %" if accuracies else "diverged"
    words = " ".join(Configure.flags(trial.user_attrs.get("overrides", {})))
    state, epochs = trial.state.name.lower(), _epochs(len(accuracies))
    print(f"trial {trial.number}: {state}, {epochs}, valid accuracy {last}  {words}")


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _draw_study(folder: Path, study) -> None:
    import matplotlib
    from optuna.visualization import matplotlib as pictures

    with matplotlib.rc_context():
        for name in ("optimization_history", "param_importances"):
            # A single trial, or equal ones, say nothing of importance.
            with contextlib.suppress(RuntimeError, ValueError):
                buffer = io.BytesIO()
                axes = getattr(pictures, f"plot_{name}")(study)
                axes.figure.savefig(buffer, format="png", bbox_inches="tight")
                files.write_bytes(folder / f"{name}.png", buffer.getvalue())
                matplotlib.pyplot.close(axes.figure)
